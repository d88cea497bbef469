"""From labels as data has them to class indices, and from texts to batches of them."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.batches import LabeledBatch
from detox_lightning.data.counted import Counted
from detox_lightning.data.encoding import Encoding, pad
from detox_lightning.data.sources import MissingSplit, check_labels, check_text, load_rows
from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 10  # labels in a message


@dataclass(frozen=True)
class Classes:
    """Turns the labels found in data into class indices, by name.

    Args:
        names: Class names in order of their index.
        renamed: Label in the data → class name.
        flag: What gave the names, for messages.

    Raises:
        InputError: If there are doubles or less than two names, or a label is renamed to none.
    """

    names: tuple[str, ...]
    renamed: dict[str, str]
    flag: str = "--data.labels"

    def __post_init__(self) -> None:
        if len(set(self.names)) < max(2, len(self.names)):
            raise InputError(f"{self}: give two or more different names")
        stray = sorted(set(self.renamed.values()) - set(self.names))
        if stray:
            raise InputError(
                f"--data.label_map={self.renamed}: {', '.join(stray)} not in {self}; map to these"
            )

    def __str__(self) -> str:
        """The flag with its value."""
        return f"{self.flag}={list(self.names)}"

    def index(self, label: str | int | None) -> int | None:
        """The index of a label by its name, or None if it is no class; a number is no name."""
        if label is None:  # a missing value; a class may be named so
            return None
        name = self.renamed.get(str(label), str(label))
        return self.names.index(name) if name in self.names else None

    def check(self, labels: list[Any], source: str) -> None:
        """Makes sure that each label is a class; None is no label.

        Raises:
            InputError: If not; lists the labels found.
        """
        found = {label for label in labels if label is not None}
        unknown = sorted(str(label) for label in found if self.index(label) is None)
        if unknown:
            raise InputError(
                f"{source}: it has the labels {_some(sorted(map(str, found)))}, but "
                f"{_some(unknown)} {'is' if len(unknown) == 1 else 'are'} none of "
                f"{self}; say what they mean with --data.label_map, "
                "such as {" + f"{unknown[0]}: {self.names[0]}" + "}"
            )

    def missing(self, rows: "Dataset") -> list[str]:
        """Names of the classes that no row has.

        Args:
            rows: With ``label``, a class index.
        """
        found = set(rows.unique("label"))
        return [name for index, name in enumerate(self.names) if index not in found]


def by_name(label_map: dict[Any, str]) -> dict[str, str]:
    """A map of labels by their names, also where YAML made numbers of them.

    Args:
        label_map: Label in the data → class name.

    Raises:
        InputError: If YAML made something else of a name, as it does of ``no`` and ``null``.
    """
    read = {True: "true, yes or on", False: "false, no or off", None: "null"}
    for label, name in label_map.items():
        if label is None or isinstance(label, bool):
            raise InputError(
                f"--data.label_map={label_map}: YAML takes {read[label]} for no name; put it in "
                f"quotes, such as {{'{read[label].split(', ')[0]}': {name}}}"
            )
    return {str(label): str(name) for label, name in label_map.items()}


def _some(labels: list[str]) -> str:
    more = len(labels) - SHOWN
    return ", ".join(labels[:SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class LabeledTexts:
    """Texts and class indices out of one or more sources.

    Args:
        sources: As for :func:`~detox_lightning.data.sources.load_rows`.
        text_column: Column with the texts.
        label_column: Column with the labels.
        classes: What the labels mean.
    """

    sources: tuple[str, ...]
    text_column: str
    label_column: str
    classes: Classes

    def read(self, split: str, flag: str) -> Counted:
        """Reads a split of all sources that have it, and keeps the rows with text and label.

        Args:
            split: Name of the split.
            flag: The flag that named it, for the message.

        Returns:
            Rows with ``text`` and ``label``, a class index.

        Raises:
            MissingSplit: If none of the sources has the split.
            InputError: If a source can't be read, or no row is left.
        """
        from datasets import concatenate_datasets

        tables, without = [], []
        for source in self.sources:
            try:
                rows = load_rows(source, split, flag)
            except MissingSplit as error:
                without.append(error)
            else:
                tables.append(self._labeled(rows, source))
        if not tables:
            raise without[0]
        for missing in without:
            rank_zero_info(f"{missing}: it gives no rows to this split")
        kept = Counted.of(concatenate_datasets(tables)).keep(
            "with text and label", _complete, ["text", "label"], quiet=True
        )
        if not len(kept.rows):
            raise InputError(
                f"{', '.join(self.sources)}: no row of {split!r} is left ({kept}); give other data"
            )
        return kept

    def check_learnable(self, rows: "Dataset") -> None:
        """Makes sure that there is something to learn of each class.

        Args:
            rows: Those to train on, with ``label``, a class index.

        Raises:
            InputError: If a class has no row.
        """
        if missing := self.classes.missing(rows):
            raise InputError(
                f"{', '.join(self.sources)}: none of {len(rows)} training rows has the label "
                f"{_some(missing)} of {self.classes}; give rows of every label, or leave it out"
            )

    def _labeled(self, rows: "Dataset", source: str) -> "Dataset":
        """The rows as ``text`` and ``label``, whatever the source calls them."""
        from datasets import Features, Value

        check_text(rows, self.text_column, "--data.text_column", source)
        check_labels(rows, self.label_column, "--data.label_column", source)
        named = {label: label for label in rows.unique(self.label_column)}
        # a ClassLabel holds indices into its own names, which need not be in our order; -1 is none
        if own := getattr(rows.features[self.label_column], "names", None):
            named = {i: own[i] if i is not None and i >= 0 else None for i in named}
        self.classes.check(list(named.values()), source)
        indices = {label: self.classes.index(name) for label, name in named.items()}
        columns = list(dict.fromkeys([self.text_column, self.label_column]))
        return rows.select_columns(columns).map(
            partial(_index, text=self.text_column, label=self.label_column, indices=indices),
            batched=True,
            remove_columns=columns,
            features=Features({"text": Value("string"), "label": Value("int64")}),
            desc="Reading labels",
        )


def _index(
    batch: dict[str, list[Any]], text: str, label: str, indices: dict[Any, int | None]
) -> dict[str, list[Any]]:
    return {"text": batch[text], "label": [indices[value] for value in batch[label]]}


def _complete(texts: list[str | None], labels: list[int | None]) -> list[bool]:
    pairs = zip(texts, labels, strict=True)
    return [bool(text and text.strip()) and label is not None for text, label in pairs]


def encode_texts(
    encoding: Encoding, max_tokens: int, batch: dict[str, list[Any]], places: list[int]
) -> dict[str, list[Any]]:
    """Tokenizes texts.

    Args:
        encoding: The tokenizer.
        max_tokens: Tokens a text may have; what is beyond them is cut off.
        batch: Columns ``text`` and ``label``.
        places: Of the rows; not needed.

    Returns:
        ``input_ids``, ``label``, and ``cut``: whether the text was longer.
    """
    whole = encoding.ids(batch["text"])
    return {
        "input_ids": encoding.ids(batch["text"], max_tokens),
        "label": batch["label"],
        "cut": [len(ids) > max_tokens for ids in whole],
    }


@dataclass(frozen=True)
class LabeledCollator:
    """Makes a :class:`LabeledBatch` of encoded rows.

    Args:
        pad_id: What to pad with, on the right.
    """

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> LabeledBatch:
        """Pads the rows to a common length."""
        labels = torch.tensor([row["label"] for row in rows])
        return LabeledBatch(*pad([row["input_ids"] for row in rows], self.pad_id), labels)

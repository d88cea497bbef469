"""Labelled texts, for the reward stage."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.batches import LabeledBatch
from detox_lightning.data.base_module import RowsDataModule
from detox_lightning.data.counted_rows import CountedRows, known, nonempty
from detox_lightning.data.encoding import pad
from detox_lightning.data.sources import check_column, check_names
from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_LABELS = ["nothate", "hate"]  # where the model names none
MOST_LABELS_SHOWN = 10  # in a message
NOT_OF_CLASSES = "a single column; --model.target=scores takes several"
YAML_WORDS = {True: "true, yes or on", False: "false, no or off", None: "null"}


class LabeledTextDataModule(RowsDataModule):
    """Labelled texts, or texts with scores from 0 to 1 if the model's target is scores.

    Args:
        text_column: Column with the texts.
        label_column: Column with the labels: names, or whole numbers, which label_map must name.
            Of scores: a list of columns, one for each of the model's labels, in their order.
        labels: Class names; they must equal the model's, if it names some. null: the model's.
        label_map: Class names for other labels of the data, such as {offensive: nothate} or
            {0: hate}.
        max_tokens: Largest number of tokens of a text; longer texts are cut, and the number of cuts
            is logged.
        validation_split: Name of the split to validate on. null: a share of train_split.
        validation_fraction: That share, drawn at random with split_seed. null: no validation.
        test_split: Name of the split to test on. null, or a source without it: validation rows.
        split_seed: Seed of that draw.
        shared: Options of :class:`RowsDataModule`.

    Raises:
        InputError: If ``labels`` has duplicates or fewer than two names, or ``label_map`` maps to
            another name.
    """

    truncation_note = "texts were cut at {} tokens"
    fallback = ("test", "validation")
    skips_missing = True
    shared_by: Sequence[str] = ("validation_fraction", "validation_split", "split_seed")

    def __init__(
        self,
        source: str | list[str],
        tokenizer: str | None = None,
        text_column: str = "text",
        label_column: str | list[str] = "label",
        labels: Sequence[str] | None = None,
        label_map: dict[str, str] | None = None,
        max_tokens: PositiveInt = 128,
        validation_split: str | None = None,
        validation_fraction: OpenUnitInterval | None = 0.1,
        test_split: str | None = "test",
        split_seed: NonNegativeInt = 42,
        **shared: Any,
    ) -> None:
        super().__init__(
            source, tokenizer, validation_split=validation_split, test_split=test_split, **shared
        )
        self.text_column, self.label_column = text_column, label_column
        self.label_columns = [label_column] if isinstance(label_column, str) else list(label_column)
        self.labels, self.renamed = labels, _names_by_label(label_map or {})
        self.max_prompt_tokens = max_tokens
        if validation_fraction and not validation_split:
            self.shares = {"validation": {"test_size": validation_fraction, "seed": split_seed}}
        if labels is not None:
            self._classes()

    @property
    def _are_scores(self) -> bool:
        return self._stage is not None and self._stage.learns_scores

    def _classes(self) -> tuple[list[str], str]:
        """Returns the class names, the model's if it has some, and their flag with its value.

        Raises:
            InputError: If both the user and the model name classes and they differ, there are
                duplicates or fewer than two, or ``label_map`` maps to another name.
        """
        given = None if self.labels is None else list(self.labels)
        names = self._stage.labels if self._stage else None
        if names and given and names != given:
            raise InputError(
                f"--data.labels={given} are not --model.labels={names}, in this order, by which "
                "the classifier's outputs are named: leave --data.labels out, and name all classes "
                "in --model.labels"
            )
        names = names or (DEFAULT_LABELS if given is None else given)
        flag = f"--{'model' if given is None else 'data'}.labels={names}"
        if len(set(names)) < max(1 if self._are_scores else 2, len(names)):
            raise InputError(f"{flag}: give two or more different names")
        if stray := sorted(set(self.renamed.values()) - set(names)):
            raise InputError(
                f"--data.label_map={self.renamed}: {', '.join(stray)} not in {flag}; map to these"
            )
        return names, flag

    def _select(self, rows: "Dataset", source: str) -> "Dataset":
        from datasets import Features, Value

        names, flag = self._classes()
        if self._are_scores and self.renamed:
            raise InputError(
                f"--data.label_map={self.renamed}: --model.target=scores reads numbers, which have "
                "no names; leave it out"
            )
        if len(self.label_columns) != (len(names) if self._are_scores else 1):
            wanted = f"one for each of {flag}" if self._are_scores else NOT_OF_CLASSES
            raise InputError(f"--data.label_column={self.label_column}: give {wanted}")
        flags = dict.fromkeys([self.text_column, *self.label_columns], "--data.label_column")
        flags[self.text_column] = "--data.text_column"
        check_names(rows, flags, source)
        check_column(rows, self.text_column, "text", "--data.text_column", source)
        content: Literal["scores", "labels"] = "scores" if self._are_scores else "labels"
        for column in self.label_columns:
            check_column(rows, column, content, "--data.label_column", source)
        label, kind = self._reader(rows, source)
        return rows.select_columns(list(flags)).map(
            partial(_read, text=self.text_column, columns=self.label_columns, label=label),
            batched=True,
            remove_columns=list(flags),
            features=Features({"text": Value("string"), "label": kind}),
            desc="Reading labels",
        )

    def _reader(self, rows: "Dataset", source: str) -> tuple[Callable[..., Any], Any]:
        """Returns what makes a label of a row's values, and the label's type."""
        from datasets import Sequence, Value

        if self._are_scores:
            for column in self.label_columns:
                _warn_missing(rows, column, source)
            return _scores, Sequence(Value("float32"))
        (column,) = self.label_columns
        found = {label: label for label in rows.unique(column)}
        # a ClassLabel holds indices into its own names, whose order may differ; -1 means none
        if own := getattr(rows.features[column], "names", None):
            found = {i: own[i] if i is not None and i >= 0 else None for i in found}
        return self._indices(found, source).get, Value("int64")

    def _indices(self, found: dict[Any, Any], source: str) -> dict[Any, int | None]:
        """Returns the class index of each label, by its name; None for a missing label."""
        names, flag = self._classes()
        labels = {str(name) for name in found.values() if name is not None}
        known = {name: name for name in names} | self.renamed
        if unknown := sorted(labels - set(known)):
            raise InputError(
                f"{source}: it has the labels {_listed(sorted(labels))}, but {_listed(unknown)} "
                f"{'is' if len(unknown) == 1 else 'are'} none of {flag}; say what they mean with "
                f"--data.label_map, such as {{{unknown[0]}: {names[0]}}}"
            )
        return {
            label: None if name is None else names.index(known[str(name)])
            for label, name in found.items()
        }

    def _keep_usable(self, rows: CountedRows, where: str) -> CountedRows:
        rows = rows.filter("with a text", nonempty, "text").filter("with a label", known, "label")
        return rows.require_rows(where, "; give other data")

    def _encode(self, split: str, rows: CountedRows) -> CountedRows:
        if not self._are_scores:
            self._check_labels(split, rows)
        encoded = self.encoding.encode(rows.rows, self._tokenize, "labeled", self.max_prompt_tokens)
        return rows._replace(rows=encoded)

    def _check_labels(self, split: str, rows: CountedRows) -> None:
        """Raises InputError if training rows lack a label; warns if other rows do."""
        names, flag = self._classes()
        found = set(rows.rows.unique("label"))
        missing = _listed([name for i, name in enumerate(names) if i not in found])
        if missing and split == "train":
            raise InputError(
                f"{', '.join(self.sources)}: none of {len(rows.rows)} training rows has the label "
                f"{missing} of {flag}; give rows of every label, or leave it out"
            )
        if missing:
            rank_zero_warn(
                f"{split}: no row has the label {missing}: F1 and AUROC say nothing about it"
            )

    def _tokenize(self, batch: dict[str, list[Any]], places: list[int]) -> dict[str, list[Any]]:
        limit = self.max_prompt_tokens
        return {
            "input_ids": self.encoding.ids(batch["text"], truncation=True, max_length=limit),
            "label": batch["label"],
            "cut": [len(ids) > limit for ids in self.encoding.ids(batch["text"])],
        }

    def _collator(self) -> Callable[[list[dict[str, Any]]], LabeledBatch]:
        return partial(_collate, pad_id=self.encoding.pad_id)


def _read(
    batch: dict[str, list[Any]], text: str, columns: list[str], label: Callable[..., Any]
) -> dict[str, list[Any]]:
    return {"text": batch[text], "label": list(map(label, *(batch[name] for name in columns)))}


def _scores(*values: float | None) -> list[float] | None:
    """Returns the scores of a text; None if one is missing."""
    return [float(value) for value in values] if all(known(values)) else None  # type: ignore[arg-type]


def _warn_missing(rows: "Dataset", column: str, source: str) -> None:
    """Warns of texts without a score, which are left out."""
    missing = [row for row, is_known in enumerate(known(rows[column][:]), 1) if not is_known]
    if missing:
        rank_zero_warn(
            f"--data.label_column={column}: {len(missing)} of {len(rows)} rows of {source} have no "
            f"score and are left out, the first of them row {missing[0]}"
        )


def _collate(rows: list[dict[str, Any]], pad_id: int) -> LabeledBatch:
    labels = torch.tensor([row["label"] for row in rows])
    return LabeledBatch(*pad([row["input_ids"] for row in rows], pad_id), labels)


def _names_by_label(label_map: dict[Any, str]) -> dict[str, str]:
    """Turns numbers that YAML read into text; raises InputError for ``no`` and ``null``."""
    for label, name in label_map.items():
        if label is None or isinstance(label, bool):
            words = YAML_WORDS[label]
            raise InputError(
                f"--data.label_map={label_map}: YAML does not read {words} as text; put it in "
                f"quotes, such as {{'{words.split(', ')[0]}': {name}}}"
            )
    return {str(label): str(name) for label, name in label_map.items()}


def _listed(labels: list[str]) -> str:
    more = len(labels) - MOST_LABELS_SHOWN
    return ", ".join(labels[:MOST_LABELS_SHOWN]) + (f" and {more} more" if more > 0 else "")

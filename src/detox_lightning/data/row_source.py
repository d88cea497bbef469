"""What the data modules have in common: the rows of each split, read from one or more sources."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.data.counted_rows import CountedRows, count
from detox_lightning.data.encoding import Encoding, count_cut
from detox_lightning.data.sources import MissingSplit, load_rows
from detox_lightning.errors import InputError
from detox_lightning.protocols import Stage

if TYPE_CHECKING:
    from datasets import Dataset

VERBS = {"validation": "validate", "test": "test"}


class HeldOut(NamedTuple):
    """A split that is a share of the training rows: the last of them, or drawn with ``seed``."""

    split: str
    fraction: float
    shuffle: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class RowSource(ABC):
    """Rows of one kind: which of them make up a split, and how they are encoded.

    Attributes:
        sources: Names of the data sets, as :func:`~detox_lightning.data.sources.load_rows` takes
            them.
        splits: For ``train``, ``validation`` and ``test`` the name of the data set's split; None:
            it has none.
        limits: For each of them the largest number of rows; None: all.
        max_prompt_tokens: Largest number of tokens of a prompt, its chat template included, or of a
            text to classify.
        max_target_tokens: Largest number of tokens of an answer to learn, EOS included; 0: there
            are none.
        held_out: The split that is cut off the training rows; None: there is none.
        fallbacks: For a split that the data set lacks the split used in its place.
        remedies: For a split that the data set lacks the end of the message.
        skips_missing: Whether one of several data sets may lack a split.
    """

    sources: tuple[str, ...]
    splits: dict[str, str | None]
    limits: dict[str, int | None]
    max_prompt_tokens: int
    max_target_tokens: int = 0
    held_out: HeldOut | None = None
    fallbacks: dict[str, str] = field(default_factory=dict)
    remedies: ClassVar[dict[str, str]] = {}
    skips_missing: ClassVar[bool] = False

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows."""
        held_out = self.held_out is not None and self.held_out.split == "validation"
        return self.splits["validation"] is not None or held_out

    @property
    @abstractmethod
    def truncation_note(self) -> str:
        """Log phrase for rows that were cut, e.g. ``prompts were cut to 64 tokens``."""

    def choose(self, split: str, stage: Stage | None) -> CountedRows:
        """Returns the rows of a split, before they are encoded.

        Args:
            split: ``train``, ``validation`` or ``test``.
            stage: The training stage, which cannot use all rows.

        Raises:
            InputError: If there are no such rows.
        """
        return self._choose(split, stage).at_most(self.limits[split])

    def _choose(self, split: str, stage: Stage | None) -> CountedRows:
        if (cut := self.held_out) and split in ("train", cut.split):
            kept, off = self.read("train", stage).split_off(
                cut.fraction, cut.shuffle, cut.seed, f"--data.{cut.split}_fraction"
            )
            return kept if split == "train" else off
        try:
            return self.read(split, stage)
        except MissingSplit as error:
            if other := self.fallbacks.get(split):
                rank_zero_info(f"{error}: the {other} rows are used to {VERBS[split]}")
                return self._choose(other, stage)
            raise InputError(f"{error}{self.remedies.get(split, '')}") from error

    def read(self, split: str, stage: Stage | None) -> CountedRows:
        """Reads a split of the data sets and keeps the rows that can be used.

        Args:
            split: ``train``, ``validation`` or ``test``.
            stage: The training stage, which cannot use all rows.

        Raises:
            MissingSplit: If there is no such split.
            InputError: If a data set can't be read, or no row is left.
        """
        from datasets import concatenate_datasets

        name, flag = self.splits[split], f"--data.{split}_split"
        if name is None:
            raise MissingSplit(f"{flag}=null: there are no such rows; name a split")
        tables, missing = [], []
        for source in self.sources:
            try:
                tables.append(self.select(load_rows(source, name, flag), source, stage))
            except MissingSplit as without:
                missing.append(without)
        if missing and not (tables and self.skips_missing):
            raise missing[0]
        for error in missing:
            rank_zero_info(f"{error}: it gives no rows to this split")
        rows = concatenate_datasets(tables) if len(tables) > 1 else tables[0]
        where = f"{', '.join(self.sources)}: no row of {name!r} is left"
        return self.keep_usable(count(rows), where, stage)

    @abstractmethod
    def select(self, rows: "Dataset", source: str, stage: Stage | None) -> "Dataset":
        """Checks the columns of one data set and returns those that are used."""

    @abstractmethod
    def keep_usable(self, rows: CountedRows, where: str, stage: Stage | None) -> CountedRows:
        """Keeps the rows that can be used; the message begins with ``where`` if there are none."""

    @abstractmethod
    def encode(
        self, split: str, rows: CountedRows, encoding: Encoding, stage: Stage | None
    ) -> CountedRows:
        """Encodes rows for the collator.

        Args:
            split: The split that they are of; also ``predict``.
            rows: Rows of :meth:`choose`, or those to predict on.
            encoding: The tokenizer.
            stage: The training stage.

        Returns:
            Rows with a column ``cut``, which says whether they were longer, and the collator's.

        Raises:
            InputError: If they can't be encoded, or no row is left.
        """

    @abstractmethod
    def collator(self, encoding: Encoding) -> Callable[[list[dict[str, Any]]], Any]:
        """Makes the function that turns a list of encoded rows into a batch."""

    def notes(self, split: str, encoded: "Dataset") -> dict[str, int]:
        """Returns log phrases for some of the encoded rows, with the number of those rows."""
        return {self.truncation_note: count_cut(encoded)}

    def check(self, split: str, encoded: "Dataset", stage: Stage | None) -> None:
        """Raises InputError or warns if the encoded rows of a split are of little use."""
        return

"""Rows on their way from a source to a stage, with a count of what is left after each step."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.errors import InputError
from detox_lightning.seeding import derive_seed

if TYPE_CHECKING:
    from datasets import Dataset
    from lightning.pytorch import Trainer

PARTS = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
}


class Counted(NamedTuple):
    """Rows and how they became so many; as text: ``12460 rows, 10022 after …, 8017 after …``.

    Attributes:
        rows: What is left.
        history: What was done, and the number of rows after it.
    """

    rows: "Dataset"
    history: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: "Dataset") -> "Counted":
        """Begins the count."""
        return cls(rows, (f"{len(rows)} rows",))

    def then(self, what: str, rows: "Dataset") -> "Counted":
        """The rows after one more step.

        Args:
            what: Names the step, to stand after the number.
            rows: What it left.
        """
        return Counted(rows, (*self.history, f"{len(rows)} {what}"))

    def keep(
        self, what: str, test: Callable[..., list[bool]], columns: list[str], quiet: bool = False
    ) -> "Counted":
        """Keeps the rows that pass a test.

        Args:
            what: Names the rows that pass.
            test: Takes the columns as lists and says which rows to keep; a function of a module
                (or a ``partial`` of one), so that ``datasets`` finds its result again.
            columns: What to hand to it.
            quiet: Says nothing if all rows pass.
        """
        rows = self.rows.filter(test, input_columns=columns, batched=True)
        if quiet and len(rows) == len(self.rows):
            return self
        return self.then(what, rows)

    def at_most(self, number: int | None) -> "Counted":
        """The first ``number`` rows; None: all."""
        if number is None or number >= len(self.rows):
            return self
        return self.then("taken", self.rows.select(range(number)))

    def cut(
        self, fraction: float, shuffle: bool, seed: int, flag: str
    ) -> tuple["Counted", "Counted"]:
        """Cuts a share off for evaluation, as ``Dataset.train_test_split`` does.

        Args:
            fraction: The share to cut off, rounded up to whole rows.
            shuffle: False: the last rows, in order. True: drawn with ``seed``.
            seed: Seed of the draw.
            flag: The flag that named the share, for the message.

        Returns:
            The rows that stay and the rows cut off.

        Raises:
            InputError: If one of the two would be empty.
        """
        total = len(self.rows)
        if math.ceil(total * fraction) >= total:
            raise InputError(
                f"{flag}={fraction}: no row would be left to train on ({self}); give more rows or "
                "a smaller share"
            )
        both = self.rows.train_test_split(test_size=fraction, shuffle=shuffle, seed=seed)
        return self.then("after the split", both["train"]), self.then("cut off", both["test"])

    def report(self, part: str, notes: dict[str, int]) -> None:
        """Logs the counts, once over all processes.

        Args:
            part: Whose rows these are.
            notes: What else is to be said of some of them, and of how many; of none: nothing.
        """
        told = [f"; {number} {what}" for what, number in notes.items() if number]
        rank_zero_info("".join([f"{part}: {self}", *told]))

    def __str__(self) -> str:
        """The counts in one line."""
        return ", ".join(self.history)


def nonempty(*columns: list[str | None]) -> list[bool]:
    """Which rows hold more than white space in each column."""
    return [all(text and text.strip() for text in row) for row in zip(*columns, strict=True)]


def within(texts: list[str], above: int | None, up_to: int | None) -> list[bool]:
    """Which texts have ``above < characters <= up_to``; None: no bound."""
    low, high = -1 if above is None else above, math.inf if up_to is None else up_to
    return [low < len(text) <= high for text in texts]


def drawn(texts: list[str], low: float, high: float, seed: int) -> list[bool]:
    """Which texts are in a share of all texts, drawn by the text alone.

    Args:
        texts: Equal ones are in the same share.
        low: Where the share begins, from 0.
        high: Where it ends, up to 1; that itself is outside.
        seed: Of the draw.
    """
    places = (derive_seed(seed, "share", text) / 2**63 for text in texts)
    # the largest seeds round to 1
    return [low <= min(place, 1 - 2**-53) < high for place in places]


def parts_needed(trainer: "Trainer | None", validates: bool, predicts: str = "test") -> list[str]:
    """Which parts the trainer's present job reads.

    Args:
        trainer: Within fit, validate, test or predict; None: nothing is known, so nothing.
        validates: Whether the user wants validation.
        predicts: The part that predict reads.

    Raises:
        InputError: If the job is to validate and the user doesn't want that.
    """
    job = trainer.state.fn if trainer is not None else None
    if trainer is None or job is None:
        return []
    if job == "validate" and not validates:
        raise InputError("--data.validation_split=null: this leaves nothing to validate on")
    if job == "predict":
        return [predicts]
    skipped = () if validates and trainer.limit_val_batches else ("validation",)
    return [part for part in PARTS[job.value] if job != "fit" or part not in skipped]

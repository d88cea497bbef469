"""Rows on their way from a source to a stage, with a log of how many each step left."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


class CountedRows(NamedTuple):
    """Rows and how many each step left; as text: ``12460 rows, 10022 with a dialogue``.

    Attributes:
        rows: The rows after the last step.
        history: For each step the number of rows that it left and a phrase that describes them.
    """

    rows: "Dataset"
    history: tuple[str, ...] = ()

    def then(self, phrase: str, rows: "Dataset") -> "CountedRows":
        """Returns the rows that one more step left; ``phrase`` is logged after their number."""
        return CountedRows(rows, (*self.history, f"{len(rows)} {phrase}"))

    def filter(
        self, phrase: str, test: Callable[..., list[bool]], column: str, log_always: bool = False
    ) -> "CountedRows":
        """Keeps the rows that pass a test of a column, which ``phrase`` describes.

        The test gets the column as a list and returns which rows pass. It must be a function of a
        module (or a ``partial`` of one), so that ``datasets`` finds its result in the cache. Unless
        ``log_always`` is True, the step is not logged if all rows pass.
        """
        rows = self.rows.filter(test, input_columns=column, batched=True)
        if len(rows) == len(self.rows) and not log_always:
            return self
        return self.then(phrase, rows)

    def require_rows(self, where: str, remedy: str) -> "CountedRows":
        """Returns the rows themselves; raises InputError with all counts if there are none."""
        if not len(self.rows):
            raise InputError(f"{where} ({self}){remedy}")
        return self

    def at_most(self, number: int | None) -> "CountedRows":
        """Keeps the first ``number`` rows; None: all."""
        if number is None or number >= len(self.rows):
            return self
        return self.then("taken", self.rows.select(range(number)))

    def __str__(self) -> str:
        """All counts in one line."""
        return ", ".join(self.history)


def nonempty(texts: list[Any]) -> list[bool]:
    """Returns for each text, or list of texts, whether it holds more than white space."""
    return [bool(texts_in(text)) for text in texts]


def texts_in(value: str | list[str | None] | None) -> list[str]:
    """Returns the texts of a cell, which holds one or a list; blank ones are left out."""
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if text and text.strip()]


def known(values: Sequence[Any]) -> list[bool]:
    """Returns for each value whether it is there; NaN counts as missing."""
    return [value is not None and value == value for value in values]

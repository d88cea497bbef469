"""Checks that a column of a data set is there and holds what it should."""

from typing import TYPE_CHECKING, Literal

from detox_lightning.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

TEXT = ("string", "large_string")
ONLY_NULLS = "nothing but null"
TYPE_WORDS = {"null": ONLY_NULLS, "List": "lists", "LargeList": "lists"}
TYPE_WORDS["Json"] = "values of several kinds"
CONVERT = "name another or convert it"


def check_column(
    rows: "Dataset",
    column: str,
    content: Literal["text", "labels", "scores"],
    flag: str,
    source: str,
) -> None:
    """Makes sure that a column exists and holds what it should.

    Args:
        rows: Rows of a data set.
        column: Name of the column.
        content: Text; labels, which are names or whole numbers; or scores from 0 to 1.
        flag: Flag that named the column, for the message.
        source: Name of the data set, for the message.

    Raises:
        InputError: If the column is missing, or holds something else or bytes that aren't UTF-8.
    """
    if column not in rows.column_names:
        raise InputError(
            f"{flag}={column}: {source} has no such column; it has "
            f"{', '.join(rows.column_names) or 'none'}{nearest(column, rows.column_names)}"
        )
    kind = _content_of(rows, column)
    where = f"{flag}={column}: in {source} this column"
    if content == "text" and kind not in TEXT:
        texts = [name for name in rows.column_names if _content_of(rows, name) in TEXT]
        known = f"its text columns are {', '.join(texts)}" if texts else "it has no text columns"
        raise InputError(f"{where} holds {kind}, not text; {known}")
    if content == "labels" and kind not in TEXT and "int" not in kind:
        raise InputError(f"{where} holds {kind}, neither names nor whole numbers; {CONVERT}")
    if content == "scores":
        if not kind.startswith(("float", "int", "uint")):
            raise InputError(f"{where} holds {kind}, not numbers; {CONVERT}")
        import pyarrow.compute

        bounds = pyarrow.compute.min_max(rows.data.column(column)).as_py()
        low, high = bounds["min"], bounds["max"]
        if low is not None and (low < 0 or high > 1):
            raise InputError(f"{where} goes from {low:g} to {high:g}, not from 0 to 1; {CONVERT}")
    elif row := _first_not_utf8(rows, column):
        raise InputError(f"{flag}={column}: row {row} of {source} isn't UTF-8; convert the file")


def has_only_nulls(rows: "Dataset", column: str) -> bool:
    """Returns whether there is such a column, and no value in it."""
    return column in rows.column_names and _content_of(rows, column) == ONLY_NULLS


def _content_of(rows: "Dataset", column: str) -> str:
    """Returns what a column holds, in a word for messages, e.g. ``string`` or ``lists``."""
    feature = rows.features[column]
    if len(rows) and rows.data.column(column).null_count == len(rows):
        return ONLY_NULLS
    kind = getattr(feature, "dtype", None) or type(feature).__name__
    return TYPE_WORDS.get(kind, kind)


def _first_not_utf8(rows: "Dataset", column: str) -> int | None:
    """Returns the number of the first text that isn't UTF-8, as the JSON reader takes any bytes."""
    values = rows.data.column(column)
    try:
        values.validate(full=True)
    except ValueError:
        raws = values.cast(f"{values.type}".replace("string", "binary")).to_pylist()
        return next(
            n
            for n, raw in enumerate(raws, 1)
            if raw and raw.decode(errors="ignore").encode() != raw
        )
    return None

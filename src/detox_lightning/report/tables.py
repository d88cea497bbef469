"""Tables of plain text, and estimates in their cells."""

from collections.abc import Mapping, Sequence

DECIMALS = 3
UNKNOWN = "–"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a line for each row, its first column on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def with_interval(estimate: Mapping[str, float | None] | None, form: str = "{:.3f}") -> str:
    """Formats an estimate, for plain text: ``0.413 [0.379, 0.447]``; an en dash if undefined."""
    if estimate is None:
        return UNKNOWN
    rounded = (None if x is None else round(x, DECIMALS) or 0.0 for x in estimate.values())
    value, low, high = (UNKNOWN if x is None else form.format(x) for x in rounded)
    return value if (low, high) == (UNKNOWN, UNKNOWN) else f"{value} [{low}, {high}]"

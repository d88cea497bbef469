"""CSV, read strictly: each line has the header's fields, or a message names the line."""

import csv
from collections.abc import Iterable, Iterator

OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
LONGEST = 2**31 - 1  # characters of a field; the library's own limit is less than a long dialogue


class Malformed(ValueError):
    """What is wrong in which line, and the remedy; the file's name goes before it."""


def parse(lines: Iterable[str]) -> Iterator[list[str]]:
    """The header's names, then the fields of each row.

    Blank lines are left out. Texts may be in quotes, quotes within them are written twice.

    Args:
        lines: With their line breaks, as a file gives them that was opened with ``newline=""``.

    Raises:
        Malformed: If a row has more or fewer fields than the header, a quote is never closed or
            closed too early, two columns have the same name, or something else than commas
            separates them; or if there are no rows.
    """
    before = csv.field_size_limit(LONGEST)
    try:
        rows = _rows(lines)
        _, header = next(rows, (1, []))
        yield _names(header)
        is_empty = True
        for line, row in rows:
            if len(row) != len(header):
                more = "more" if len(row) > len(header) else "fewer"
                raise Malformed(
                    f"line {line} has {len(row)} field{'s' * (len(row) > 1)}, {more} than the "
                    f"{len(header)} columns of the header; remove commas that are too many, fill "
                    "in fields that are missing, and put texts with commas or line breaks in quotes"
                )
            is_empty = False
            yield row
        if is_empty:
            raise Malformed("the file holds no rows; give one that does")
    finally:
        csv.field_size_limit(before)


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The rows that aren't blank, and the line in which each begins."""
    reader = csv.reader(_without_nulls(lines), strict=True)
    begins = 1
    try:
        for row in reader:
            if (row and not row[0].isspace()) or len(row) > 1:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        if "end of data" in str(error):
            what = f"a quote in the row that begins in line {begins} is never closed; close it"
        elif "expected after" in str(error):
            what = (
                f"line {reader.line_num} goes on after a closing quote (its row begins in line "
                f'{begins}); close each text with one quote, and write quotes within it twice ("")'
            )
        else:
            what = f"line {reader.line_num} isn't CSV ({error}); mend it"
        raise Malformed(what) from error


def _without_nulls(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise Malformed(
                f"line {number} holds a null character; remove it, or convert the file to UTF-8"
            )
        yield line


def _names(header: list[str]) -> list[str]:
    """The columns' names; one without (as of row numbers) is called by its place."""
    if len(header) == 1:
        for separator, what in OTHER_SEPARATORS.items():
            if separator in header[0]:
                raise Malformed(
                    f"the header has {what} between its columns, {header[0]!r}; separate columns "
                    "by commas"
                )
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise Malformed(f"the header names the column {twice!r} twice; rename one of them")
    return names

"""Reads CSV strictly: each line has the header's fields, or a message names the line."""

import csv
from collections.abc import Iterable, Iterator

from detox_lightning.data.text_lines import Malformed

OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_FIELD_CHARS = 2**31 - 1  # the library's own limit is less than a long dialogue


def parse(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yields the header's names, then the fields of each row that isn't blank.

    Texts may be in quotes, and quotes within them are written twice.

    Args:
        lines: With their line breaks, as a file gives them that was opened with ``newline=""``.

    Raises:
        Malformed: If a row has more or fewer fields than the header, a quote is never closed or
            closed too early, two columns have the same name, or something else than commas
            separates them; or if there are no rows.
    """
    limit_before = csv.field_size_limit(MAX_FIELD_CHARS)
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
        csv.field_size_limit(limit_before)


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that aren't blank, and the line in which each begins."""
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
    """Returns the columns' names; a column without one is called by its number."""
    for separator, what in OTHER_SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            raise Malformed(
                f"the header has {what} between its columns, {header[0]!r}; separate columns by "
                "commas"
            )
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    for name in names:
        if names.count(name) > 1:
            raise Malformed(f"the header names the column {name!r} twice; rename one of them")
    return names

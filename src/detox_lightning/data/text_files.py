"""Parses rows in text files, and finds the line that can't be parsed."""

import csv
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_FIELD_CHARS = 2**31 - 1  # the library's own limit is less than a long dialogue
_STRING = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"?'
)  # of JSON, within a line; its end may be missing


class Malformed(ValueError):
    """Names the line, the problem and the remedy; whoever catches it puts the file before them."""


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file, unpacked if its name ends with ``.gz``."""
    return (gzip.open if str(path).endswith(".gz") else open)(path, "rb")  # type: ignore[return-value]


def decode(content: bytes, what: str = "file") -> str:
    """Decodes UTF-8, with or without a byte order mark; raises Malformed if it isn't UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise Malformed(f"line {number} isn't UTF-8; convert the {what}") from error


def parse_object(number: int, line: str) -> dict[str, Any]:
    """Parses a line as a JSON object; raises Malformed, which names the line, if it isn't one."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # lone surrogates would fail later
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise Malformed(f"line {number} isn't a JSON object: {line[:40]!r}; give one on each line")
    return row


def check_json(text: str) -> None:
    """Raises Malformed if a text is neither a JSON list nor one JSON object per line."""
    if text.lstrip().startswith("["):
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise Malformed(
                f"line {error.lineno} isn't JSON ({error.msg}); give a list of objects, or one "
                "object on each line"
            ) from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            parse_object(number, line)


def find_deeper(file: BinaryIO, limit: int) -> int | None:
    """Finds JSON that is nested too deeply, on which parsers crash.

    Returns:
        Number of the first line with more than ``limit`` lists and objects within each other; None
        if there is none. The file's encoding must extend ASCII.
    """
    level = 0
    for number, line in enumerate(file, 1):
        for bracket in re.findall(rb"[][{}]", _STRING.sub(b"", line)):
            level = level + 1 if bracket in b"[{" else max(0, level - 1)
            if level > limit:
                return number
    return None


def parse_csv(lines: Iterable[str], separator: str = ",") -> Iterator[list[str]]:
    """Yields the header's names, then the fields of each row that isn't blank.

    The lines must have their line breaks, as in a file opened with ``newline=""``.

    Raises:
        Malformed: If a row has more or fewer fields than the header, a quote is never closed or
            closed too early, two columns have the same name or have another separator, or there are
            no rows.
    """
    limit_before = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        rows, what = _csv_rows(lines, separator), SEPARATORS[separator]
        _, header = next(rows, (1, []))
        yield _names(header, separator)
        is_empty = True
        for line, row in rows:
            if len(row) != len(header):
                more = "more" if len(row) > len(header) else "fewer"
                raise Malformed(
                    f"line {line} has {len(row)} field{'s' * (len(row) > 1)}, {more} than the "
                    f"{len(header)} columns of the header; remove {what} that are too many, "
                    f"fill in fields that are missing, and put texts with {what} or line breaks in "
                    "quotes"
                )
            is_empty = False
            yield row
        if is_empty:
            raise Malformed("the file holds no rows; give one that does")
    finally:
        csv.field_size_limit(limit_before)


def _csv_rows(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line in which each row begins, and the row; blank rows are left out."""
    reader = csv.reader(_without_nulls(lines), delimiter=separator, strict=True)
    begins = 1
    try:
        for row in reader:
            if (row and not row[0].isspace()) or len(row) > 1:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        problem = f"line {reader.line_num} isn't CSV ({error}); correct it"
        if "end of data" in str(error):
            problem = f"a quote in the row that begins in line {begins} is never closed; close it"
        elif "expected after" in str(error):
            problem = (
                f"line {reader.line_num} goes on after a closing quote (its row begins in line "
                f'{begins}); close each text with one quote, and write quotes within it twice ("")'
            )
        raise Malformed(problem) from error


def _without_nulls(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise Malformed(
                f"line {number} holds a null character; remove it, or convert the file to UTF-8"
            )
        yield line


def _names(header: list[str], separator: str) -> list[str]:
    """Returns the columns' names; a column without a name is named by its number."""
    for other, what in SEPARATORS.items():
        if len(header) == 1 and other in header[0] and other != separator:
            raise Malformed(
                f"the header has {what} between its columns, {header[0]!r}; separate columns by "
                f"{SEPARATORS[separator]}"
            )
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    for name in names:
        if names.count(name) > 1:
            raise Malformed(f"the header names the column {name!r} twice; rename one of them")
    return names

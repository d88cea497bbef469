"""Rows in text files, and the line that is at fault if they can't be read."""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_FIELD_CHARS = 2**31 - 1  # the library's own limit is less than a long dialogue
CHUNK_BYTES = 1 << 22
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"\n'))


class Malformed(ValueError):
    """What is wrong in which line, and the remedy; the file's name goes before it."""


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file, unpacked if its name ends with ``.gz``."""
    return (gzip.open if str(path).endswith(".gz") else open)(path, "rb")  # type: ignore[return-value]


def decode(content: bytes, what: str = "file") -> str:
    """Decodes UTF-8, with or without a byte order mark; raises Malformed if it is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise Malformed(f"line {number} isn't UTF-8; convert the {what}") from error


def parse_object(number: int, line: str) -> dict[str, Any]:
    """Parses a line's JSON object; raises Malformed, which names the line, if it is none."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # halves of characters would fail later
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise Malformed(f"line {number} isn't a JSON object: {line[:40]!r}; give one on each line")
    return row


def check_json(text: str) -> None:
    """Raises Malformed if a line isn't what the first one promises: a list, or an object a line."""
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
    """Finds too deep JSON, in any encoding that extends ASCII, as parsers crash on it.

    Returns:
        The number of the first line in which more than ``limit`` lists and objects are within each
        other; None if there is none.
    """
    import numpy

    steps = numpy.zeros(256, dtype=numpy.int8)
    steps[list(b"[{")], steps[list(b"]}")] = 1, -1
    in_text, level, line = False, 0, 1
    while chunk := file.read(CHUNK_BYTES):
        while chunk.endswith(b"\\") and (more := file.read(1)):  # what it escapes
            chunk += more
        unescaped = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = unescaped.translate(None, _NO_BRACKETS).split(b'"')
        outside = b"".join(parts[in_text::2])
        levels = level + numpy.cumsum(steps[numpy.frombuffer(outside, numpy.uint8)], dtype=int)
        if levels.max(initial=0) > limit:
            return line + outside[: int((levels > limit).argmax())].count(b"\n")
        in_text ^= len(parts) % 2 == 0
        line += outside.count(b"\n")
        level = int(levels[-1]) if len(levels) else level
    return None


def parse_csv(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yields the header's names, then the fields of each row that isn't blank.

    The lines must have their line breaks, as in a file opened with ``newline=""``.

    Raises:
        Malformed: If a row has more or fewer fields than the header, a quote is never closed or
            closed too early, two columns have the same name, or something else than commas
            separates them; or if there are no rows.
    """
    limit_before = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        rows = _csv_rows(lines)
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


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that aren't blank, and the line in which each begins."""
    reader = csv.reader(_without_nulls(lines), strict=True)
    begins = 1
    try:
        for row in reader:
            if (row and not row[0].isspace()) or len(row) > 1:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        problem = f"line {reader.line_num} isn't CSV ({error}); mend it"
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

"""Which line of a text file is at fault, found out before or after a parser fails."""

import json
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 22
_DROPPED = bytes(set(range(256)) - set(b'[]{}"\n'))


class Malformed(ValueError):
    """What is wrong in which line, and the remedy; the file's name goes before it."""


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
    """Finds too deep JSON without parsing it, as parsers crash.

    Args:
        file: JSON or JSON lines, in an encoding that extends ASCII.
        limit: Largest number of lists and objects within each other.

    Returns:
        The number of the first line that exceeds the limit; None if there is none.
    """
    import numpy

    steps = numpy.zeros(256, dtype=numpy.int8)
    steps[list(b"[{")], steps[list(b"]}")] = 1, -1
    in_text, level, line = False, 0, 1
    while chunk := file.read(CHUNK_BYTES):
        while chunk.endswith(b"\\") and (more := file.read(1)):  # what it escapes
            chunk += more
        unescaped = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = unescaped.translate(None, _DROPPED).split(b'"')
        outside = b"".join(parts[in_text::2])
        levels = level + numpy.cumsum(steps[numpy.frombuffer(outside, numpy.uint8)], dtype=int)
        if levels.max(initial=0) > limit:
            return line + outside[: int((levels > limit).argmax())].count(b"\n")
        in_text ^= len(parts) % 2 == 0
        line += outside.count(b"\n")
        level = int(levels[-1]) if len(levels) else level
    return None

"""How deep JSON is nested, found out without parsing it: parsers crash where it is too deep."""

from typing import BinaryIO

SIZE = 1 << 22  # bytes that are looked at together
DROPPED = bytes(set(range(256)) - set(b'[]{}"\n'))


def find_deeper(file: BinaryIO, limit: int) -> int | None:
    """The first line in which lists and objects are within more than ``limit`` others.

    Args:
        file: JSON, or lines of it, in an encoding that extends ASCII.
        limit: Levels that are allowed.

    Returns:
        The line's number; None if there is none.
    """
    import numpy

    steps = numpy.zeros(256, dtype=numpy.int8)
    steps[list(b"[{")], steps[list(b"]}")] = 1, -1
    in_text, level, line = False, 0, 1
    while chunk := file.read(SIZE):
        while chunk.endswith(b"\\") and (more := file.read(1)):  # what it escapes
            chunk += more
        unescaped = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = unescaped.translate(None, DROPPED).split(b'"')
        kept = b"".join(parts[in_text::2])
        levels = level + numpy.cumsum(steps[numpy.frombuffer(kept, numpy.uint8)], dtype=int)
        if levels.max(initial=0) > limit:
            return line + kept[: int((levels > limit).argmax())].count(b"\n")
        in_text ^= len(parts) % 2 == 0
        line += kept.count(b"\n")
        level = int(levels[-1]) if len(levels) else level
    return None

"""Computes how fast times and operations grow: slopes in a plot with two logarithmic axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from growth.arithmetic import Setting

TOTAL = "total"
PARTS = ("rollout", "score", "update", TOTAL)
TOLERANCE = 0.1  # by how much a time's exponent may exceed that of the operations

Point = Mapping[str, Any]
"""A measured setting: its fields, ``parameters``, ``cpu`` seconds of each part, and the operations
of the ``stages`` of each part but the total."""


class Exponent(NamedTuple):
    """The exponent of a figure along an axis.

    Attributes:
        all: Exponent over the whole range.
        upper: Exponent over the upper half, where constants count for less.
    """

    all: float
    upper: float


class Growth(NamedTuple):
    """The growth of a part of a step along an axis.

    Attributes:
        axis: A field of :class:`Setting`.
        part: One of :data:`PARTS`.
        time: Exponents of the CPU seconds.
        flops: Exponents of the operations.
        stage: Exponents of the stage whose operations grew fastest in the upper half. Stages run
            at different speeds: if only a slow one grows, time grows faster than the sum of the
            operations, but not faster than those of the slow stage.
    """

    axis: str
    part: str
    time: Exponent
    flops: Exponent
    stage: Exponent

    @property
    def excess(self) -> float:
        """By how much the exponent of time exceeds that of every stage, in the upper half."""
        return self.time.upper - self.stage.upper

    @property
    def too_fast(self) -> bool:
        """Whether the excess is larger than the accuracy of the measurement."""
        return self.excess > TOLERANCE


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Fits ``y = c xᵏ`` by least squares of logarithms, and returns ``k``.

    Args:
        x: At least two different positive numbers.
        y: As many positive numbers.
    """
    u, v = [math.log(each) for each in x], [math.log(each) for each in y]
    middle, height = sum(u) / len(u), sum(v) / len(v)
    rise = sum((a - middle) * (b - height) for a, b in zip(u, v, strict=True))
    return rise / sum((a - middle) ** 2 for a in u)


def exponent(x: Sequence[float], y: Sequence[float]) -> Exponent:
    """Fits the whole range, and its upper half from the middle on.

    Args:
        x: Numbers in ascending order.
        y: As many numbers.
    """
    half = len(x) // 2
    if len(x) - half < 2:
        half = 0
    return Exponent(slope(x, y), slope(x[half:], y[half:]))


def flops(point: Point, part: str) -> list[int]:
    """Returns the operations of a part's stages.

    Args:
        point: A measured point.
        part: One of :data:`PARTS`.
    """
    parts = [part] if part != TOTAL else list(point["stages"])
    return [count for each in parts for count in point["stages"][each].values()]


def lines_of(points: Sequence[Point], base: Setting) -> dict[str, list[Point]]:
    """Returns the points along each axis that has at least two, in ascending order.

    Args:
        points: All measured points.
        base: The setting that all axes share.
    """
    found = {}
    for axis in Setting._fields:
        others = [name for name in Setting._fields if name != axis]
        line = [p for p in points if all(p[name] == getattr(base, name) for name in others)]
        if len(line) > 1:
            found[axis] = sorted(line, key=lambda point: point[axis])
    return found


def growths(points: Sequence[Point], base: Setting) -> list[Growth]:
    """Computes how each part grew along each axis.

    Args:
        points: All measured points.
        base: The setting that all axes share.
    """
    found = []
    for axis, line in lines_of(points, base).items():
        x = [point[axis] for point in line]
        for part in PARTS:
            time = exponent(x, [point["cpu"][part] for point in line])
            counts = [flops(point, part) for point in line]
            stages = [exponent(x, stage) for stage in zip(*counts, strict=True)]
            together = exponent(x, [sum(count) for count in counts])
            fastest = max(stages, key=lambda stage: stage.upper)
            found.append(Growth(axis, part, time, together, fastest))
    return found


def points_table(points: Sequence[Point], base: Setting) -> str:
    """Formats the points of every axis: CPU seconds, operations, picoseconds per operation."""
    heads = [*(f"{part + ', s':>12}" for part in PARTS), f"{'GFLOP':>10}", f"{'ps/FLOP':>10}"]
    lines = []
    for axis, line in lines_of(points, base).items():
        lines.append(f"{axis:>9}{'parameters':>12}" + "".join(heads))
        for point in line:
            seconds, count = point["cpu"], sum(flops(point, TOTAL))
            cells = [f"{seconds[part]:12.4f}" for part in PARTS]
            cells += [f"{count / 1e9:10.3f}", f"{seconds[TOTAL] / count * 1e12:10.1f}"]
            lines.append(f"{point[axis]:9}{point['parameters']:12,}" + "".join(cells))
    return "\n".join(lines)


def growths_table(found: Sequence[Growth]) -> str:
    """Formats the exponents of time and operations, and marks what grows too fast."""
    lines = [f"{'exponents of':>18}{'time':>16}{'arithmetic':>16}{'its fastest stage':>18}"]
    lines.append(f"{'':18}" + f"{'all':>8}{'upper':>8}" * 2 + f"{'upper':>18}{'excess':>8}")
    for each in found:
        numbers = "".join(f"{x:8.2f}" for x in (*each.time, *each.flops))
        mark = "  FASTER THAN THE ARITHMETIC" if each.too_fast else ""
        last = f"{each.stage.upper:18.2f}{each.excess:8.2f}"
        lines.append(f"{each.axis:>9} {each.part:>8}{numbers}{last}{mark}")
    return "\n".join(lines)

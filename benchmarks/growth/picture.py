"""Draws the growth: a panel for each axis, with logarithmic scales."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growth.arithmetic import Setting
from growth.exponents import PARTS, TOTAL, Point, flops, lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "batch": "responses in a batch",
    "prompt": "tokens of a prompt",
    "response": "tokens of a response",
    "epochs": "passes over a rollout",
    "width": "width of the models",
    "layers": "layers of the models",
}
COLOURS = {"rollout": "#b35309", "score": "#5b8a3a", "update": "#1f5fa8", "total": "#010203"}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
}


def draw(points: Sequence[Point], base: Setting, file: Path) -> None:
    """Writes the picture.

    Args:
        points: All measured points.
        base: The setting that all axes share.
        file: The picture, ``*.png``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = lines_of(points, base)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplots(
            -(-len(lines) // 3), min(3, len(lines)), sharey=True, squeeze=False
        ).flat
        for (axis, line), panel in zip(lines.items(), panels, strict=False):
            draw_axis(panel, axis, line)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.supylabel("CPU seconds of a step", fontsize=9)
        figure.savefig(file, dpi=90)


def draw_axis(panel: "Axes", axis: str, line: Sequence[Point]) -> None:
    """Draws a panel.

    Args:
        panel: The panel to draw into.
        axis: A field of :class:`Setting`.
        line: The axis's points, in ascending order.
    """
    x = [point[axis] for point in line]
    for part in PARTS:
        times = [point["cpu"][part] for point in line]
        width = 2.0 if part == TOTAL else 1.2
        panel.plot(x, times, "o-", ms=3, lw=width, color=COLOURS[part], label=part)
    last = line[-1]
    counts = [sum(flops(point, TOTAL)) for point in line]
    rate = last["cpu"][TOTAL] / counts[-1]
    panel.plot(
        x,
        [rate * count for count in counts],
        "--",
        lw=1,
        color="#777777",
        label="total's arithmetic, at its last speed",
    )
    straight = [last["cpu"][TOTAL] * each / x[-1] for each in x]
    panel.plot(x, straight, ":", lw=1, color="#777777", label="slope 1")
    panel.set(xscale="log", yscale="log", title=TITLES[axis])
    panel.set_xticks(x, [str(each) for each in x])
    panel.minorticks_off()

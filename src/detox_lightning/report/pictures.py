"""Pictures of an evaluation: matplotlib figures, and SVG in the colours of a page."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from detox_lightning.evaluation.agreement import Agreement
from detox_lightning.report.curves import PANELS, Curves, present_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, BEFORE, AFTER = "#010203", "#b35309", "#1f5fa8"
PAGE_COLOURS = {
    INK: "currentColor",
    BEFORE: f"var(--before, {BEFORE})",
    AFTER: f"var(--after, {AFTER})",
}
STYLE = Path(__file__).with_name("pictures.mplstyle")
PANEL_SIZE = 3.4, 2.3  # inches: in a column of a page its letters are as large as a caption's
MAX_POINTS = 1000
LABEL_WIDTH = 28  # letters of a label beside an axis
BINS = 25
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def histogram(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    name: str,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """Draws the distributions before and after training, in common bins.

    Args:
        before: Values of the reference's responses, any shape; NaN is left out.
        after: Values of the policy's responses.
        name: Name of the values.
        limits: Ends of the axis; None: the smallest and the largest value.
    """
    sides = [values[np.isfinite(values)] for values in (before, after)]
    edges = np.linspace(*(limits or _ends(np.concatenate(sides))), BINS + 1)
    with axes_in_rows(1, 1) as (figure, (axes,)):
        for values, label, colour, line in zip(
            sides, ("before", "after"), (BEFORE, AFTER), ("--", "-"), strict=True
        ):
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.12)
            axes.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.6, label=label)
        _count_in_ones(axes.yaxis)
        axes.set(xlabel=name, ylabel="responses")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.set_label(f"Histogram of {name} before and after")
    return figure


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the smallest and the largest value, moved apart if they are nearly equal."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > 1e-6 * max(1, abs(high)) else (low - 0.5, high + 0.5)


def score_against_kl(kl: NDArray[np.float64], score: NDArray[np.float64]) -> "Figure":
    """Draws a point for each response: its score against its KL to the reference, in nats."""
    known = np.isfinite(kl) & np.isfinite(score)
    stride = -(-known.sum() // MAX_POINTS) or 1
    with axes_in_rows(1, 1) as (figure, (axes,)):
        axes.plot(
            *(values[known][::stride] for values in (kl, score)),
            linestyle="none",
            marker="o",
            markersize=3.5,
            markeredgewidth=0,
            color=AFTER,
            alpha=0.45,
        )
        axes.set(xlabel="KL to the reference, nats", ylabel="score after")
    figure.set_label("Score of each response after training against its KL to the reference")
    return figure


def curves_picture(
    curves: Curves, panels: Sequence[str] | None = None, columns: int = 3
) -> "Figure":
    """Draws training curves side by side; several panels have a common legend below.

    Args:
        curves: Pairs of rollout and value, by metric.
        panels: Titles of the panels to draw, of those in ``PANELS``; None: all that have data.
        columns: Panels in a row.

    Raises:
        ValueError: If there is nothing to draw.
    """
    titles = present_panels(curves) if panels is None else list(panels)
    if not titles:
        raise ValueError("no panel has data")
    with axes_in_rows(len(titles), columns) as (figure, grid):
        for axes, title in zip(grid, titles, strict=True):
            _draw_panel(axes, title, curves)
        if len(titles) > 1:
            lines = {str(line.get_label()): line for axes in grid for line in axes.get_lines()}
            figure.legend(lines.values(), list(lines), loc="outside lower center", ncols=2)
    figure.set_label(f"Training curves: {', '.join(titles)}")
    return figure


def reliability_picture(found: Mapping[str, Agreement]) -> "Figure":
    """Draws, for each label, the true scores of texts against those that a classifier gives them.

    Each point is the mean of a bin; its area shows how many texts the bin has. On the line, both
    scores are the same.
    """
    with axes_in_rows(len(found), 3) as (figure, grid):
        for axes, (label, each) in zip(grid, found.items(), strict=True):
            texts, given, true = np.array(each.bins).T
            axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=1)
            axes.plot(given, true, color=AFTER, linewidth=1.6)
            axes.scatter(given, true, 150 * texts / texts.max(), AFTER, alpha=0.6, linewidths=0)
            axes.set(title=label, xlabel="score given, mean of a bin", ylabel="score in the data")
            axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.set_label(f"Scores in the data against those given: {', '.join(found)}")
    return figure


def has_effects(figures: Mapping[str, Any]) -> bool:
    """Whether any figure has an improvement with an interval."""
    return bool(_effects(figures))


def effects_picture(figures: Mapping[str, Any]) -> "Figure":
    """Draws each figure's improvement in percent with its interval, one below the other.

    Args:
        figures: Of one group of responses; see :func:`summarize`.
    """
    effects = _effects(figures)
    with axes_in_rows(1, 1) as (figure, (axes,)):
        figure.set_size_inches(PANEL_SIZE[0] * 1.3, 0.6 + 0.34 * len(effects))
        for place, (value, low, high) in enumerate(effects.values()):
            axes.plot([low, high], [-place, -place], color=AFTER, linewidth=2)
            axes.plot(value, -place, color=AFTER, marker="o", markersize=5)
        axes.axvline(0, color=INK, linewidth=1)
        labels = [fill(title, LABEL_WIDTH) for title in effects]
        axes.set_yticks([-place for place in range(len(effects))], labels)
        axes.set(xlabel="improvement, %", ylim=(0.5 - len(effects), 0.5))
    figure.set_label("Improvement of each figure with its interval")
    return figure


def _effects(figures: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Returns title, and improvement, low and high end in percent, of what has all three."""
    effects = {}
    for entry in figures.values():
        part = entry["improvement"] or {}
        ends = 100 * np.array([part.get(name) for name in ("value", "low", "high")], float)
        if np.isfinite(ends).all():
            effects[entry["title"]] = (*ends.tolist(),)
    return effects


def _draw_panel(axes: "Axes", title: str, curves: Curves) -> None:
    """Draws a thin line for rollouts, and a line with points for the fixed prompts."""
    panel = PANELS[title]
    rollout, fixed = (
        np.array(curves.get(name or "") or np.empty((0, 2))).T
        for name in (panel.rollout, panel.fixed)
    )
    if rollout.size:
        axes.plot(*rollout, color=INK, alpha=0.5, linewidth=1, label="each rollout")
    if fixed.size:
        width = 1.6 if fixed.shape[1] > 2 else 0  # two points are no line
        axes.plot(
            *fixed, color=AFTER, linewidth=width, marker="o", markersize=4, label="validation"
        )
    axes.set(title=title, xlabel="rollout")
    _count_in_ones(axes.xaxis)


def _count_in_ones(axis: "Axis") -> None:
    """Puts ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


@contextmanager
def axes_in_rows(count: int, columns: int) -> "Iterator[tuple[Figure, list[Axes]]]":
    """Yields a figure and its ``count`` axes, in rows; the block draws in the page's style."""
    from matplotlib import style
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    size = PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows
    with style.context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def svg(figure: "Figure") -> str:
    """Returns a figure as an ``<svg>`` element for a page.

    The figure's label becomes its title. Letters and axes have the colour of the text around it;
    the page can set the data's colours as ``--before`` and ``--after``. The same numbers give the
    same text, and no two pictures share ids.
    """
    from matplotlib import style

    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with style.context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue().decode()
    root = ElementTree.fromstring(text)
    _isolate(root, sha256(f"{figure.get_label()}{text}".encode()).hexdigest()[:8])
    root.set("aria-label", str(figure.get_label()))
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    written = ElementTree.tostring(root, encoding="unicode")
    for colour, of_page in PAGE_COLOURS.items():
        written = written.replace(colour, of_page)
    return written


def _isolate(root: Any, prefix: str) -> None:
    """Removes styles that would change the page around an SVG, and makes its ids unique."""
    for definitions in root.iter(f"{{{SVG}}}defs"):
        for rule in definitions.findall(f"{{{SVG}}}style"):
            definitions.remove(rule)
    for element in root.iter():
        for name, value in element.items():
            if name == "id":
                value = f"{prefix}-{value}"
            elif name == f"{{{LINK}}}href":
                value = value.replace("#", f"#{prefix}-")
            element.set(name, value.replace("url(#", f"url(#{prefix}-"))
    root.set("role", "img")
    root.set("stroke-linejoin", "round")

"""Draws a soak run: memory, handles and speed over the rollouts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soak.readings import Reading
from soak.verdict import rates, settled

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


def draw(readings: Sequence[Reading], file: Path) -> None:
    """Writes the picture.

    Args:
        readings: All readings of a run.
        file: The picture, ``*.png``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    x = [reading.rollouts for reading in readings]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        memory, handles, speed = figure.subplots(1, 3)
        memory.plot(x, [each.rss for each in readings], color="#010203", label="resident")
        memory.plot(x, [each.uss for each in readings], color="#1f5fa8", label="its own alone")
        memory.set(title="memory, MB")
        handles.plot(x, [each.handles for each in readings], color="#010203", label="open handles")
        handles.plot(x, [each.threads for each in readings], color="#b35309", label="threads")
        handles.set(title="handles and threads")
        speed.plot(x[1:], rates(readings, "cpu"), color="#010203", label="CPU")
        speed.plot(x[1:], rates(readings, "wall"), color="#b35309", lw=0.8, label="wall's clock")
        speed.set(title="seconds a rollout")
        for panel in (memory, handles, speed):
            panel.axvline(settled(readings)[0].rollouts, ls=":", lw=1, color="#777777")
            panel.set_ylim(bottom=0)
            panel.legend(loc="lower right")
        figure.supxlabel("rollouts; the warm-up ends at the dotted line", fontsize=9)
        figure.savefig(file, dpi=90)

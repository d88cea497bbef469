"""Draws the picture of docs/rewriting.md: similarity against the share of non-toxic answers.

    python docs/rewriting_picture.py picture.png "RLOO=runs/rewrite/version_0" …

Each run was tested with ``evaluation.rewriting``. Before its training, it is the supervised stage,
which is drawn once for each name, as are the baselines of the first run.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASELINES = {
    "copy": "the text as it is",
    "delete": "without the listed words",
    "people": "people's rewriting",
}
Interval = dict[str, float]  # value, low, high


def place(axes: Axes, found: dict[str, Interval], label: str, style: dict[str, Any]) -> None:
    """Draws one point with its intervals."""
    sta, sim = found["sta"], found["sim"]
    errors = [[[x["value"] - x["low"]], [x["high"] - x["value"]]] for x in (sim, sta)]
    axes.errorbar(
        sim["value"], sta["value"], xerr=errors[0], yerr=errors[1], label=label, capsize=2, **style
    )


def side(summary: dict[str, Any], name: str) -> dict[str, Interval]:
    """Returns the figures before or after training."""
    greedy = summary["figures"]["greedy"]
    return {figure: greedy[figure][name] for figure in ("sta", "sim")}


def main() -> None:
    """Reads the command line, and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="file to write")
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER of a tested run; names may repeat")
    given = parser.parse_args()
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [run.partition("=")[0] for run in given.runs]
    colors = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(names))}
    seen: set[str] = set()
    for name, run in zip(names, given.runs, strict=True):
        file = Path(run.partition("=")[2]) / "test" / "summary.json"
        summary = json.loads(file.read_text(encoding="utf8"))
        if not seen:
            for marker, (key, label) in zip("sDP", BASELINES.items(), strict=True):
                found = summary["rewriting"]["baselines"][key]
                place(axes, found, label, {"fmt": marker, "color": "0.4"})
        is_new = name not in seen
        seen.add(name)
        if is_new:
            hollow = {"fmt": "o", "color": colors[name], "markerfacecolor": "white"}
            place(axes, side(summary, "before"), f"{name}, supervised", hollow)
        label = f"{name}, then RLOO" if is_new else "_"  # "_" has no entry in the legend
        place(axes, side(summary, "after"), label, {"fmt": "o", "color": colors[name]})
    axes.set(xlabel="SIM, similarity to the source", ylabel="STA, share judged non-toxic")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(given.picture, dpi=110)


if __name__ == "__main__":
    main()

"""Prints one table of the tests of several runs, and draws their validation curves.

    python docs/evidence.py runs/a/version_0 runs/b/version_0 --picture docs/pictures/evidence.png

Each run needs the folder ``test/`` that the command ``test`` writes. ``--judge DIR`` scores the
same responses with another classifier, whose toxic label is ``--toxic_label``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detox_lightning.compare.rescore import add_scores, change, open_judge, read_rows
from detox_lightning.evaluation.rescoring import SIDES

ROWS = (
    *("toxicity", "expected_max_toxicity", "toxicity_probability"),
    *("second_toxicity", "second_expected_max_toxicity", "second_toxicity_probability"),
    *("perplexity", "distinct1", "distinct2", "distinct3", "kl"),
)
JUDGED = ROWS[:3]
CURVES = {"val/toxicity": "toxicity", "val/kl": "KL to the reference, nats a response"}


def table(tests: list[dict[str, Any]], rows: tuple[str, ...], suffix: str = "") -> list[str]:
    """Returns a line of Markdown for each figure, with a column for each test."""
    return [
        f"| {tests[0][name]['title']}{suffix} | "
        + " | ".join(cell(test[name]) for test in tests)
        + " |"
        for name in rows
        if name in tests[0]
    ]


def cell(entry: dict[str, Any]) -> str:
    """Formats before, after and the relative change, each with its interval."""
    if entry["before"] is None:
        return interval(entry["after"])
    sign = -1 if entry["better"] == "lower" else 1
    change = {key: sign * value for key, value in entry["improvement"].items()}
    low, high = sorted((change["low"], change["high"]))
    sides = f"{interval(entry['before'])} → {interval(entry['after'])}"
    return f"{sides}: **{change['value']:+.0%}** ({low:+.0%}, {high:+.0%})"


def interval(part: dict[str, float]) -> str:
    """Formats a value and its interval."""
    return f"{part['value']:.3g} ({part['low']:.3g}, {part['high']:.3g})"


def draw(runs: list[Path], file: Path) -> None:
    """Draws the validation curves of the runs."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (tag, title) in zip(figure.subplots(1, 2), CURVES.items(), strict=True):
        for number, run in enumerate(runs, start=1):
            events = EventAccumulator(str(run)).Reload().Scalars(tag)
            steps, values = zip(*((event.step, event.value) for event in events), strict=True)
            axes.plot(steps, values, marker="o", label=f"run {number}")
        axes.set(title=title, xlabel="rollouts", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Reads the command line, and prints and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of tested runs")
    parser.add_argument("--judge", help="folder of another classifier")
    parser.add_argument("--toxic_label", default="hate", help="its toxic label")
    parser.add_argument("--picture", type=Path, help="file for the curves")
    given = parser.parse_args()
    files = [run / "test" / "summary.json" for run in given.runs]
    tests = [json.loads(file.read_text(encoding="utf8"))["figures"]["sampled"] for file in files]
    print("| | " + " | ".join(f"run {n}" for n, _ in enumerate(tests, start=1)) + " |")
    print("|---" * (len(tests) + 1) + "|")
    print("\n".join(table(tests, ROWS)))
    if given.judge:
        judge = open_judge(given.judge, given.toxic_label)
        stored = [read_rows(file.with_name("comparison.jsonl")) for file in files]
        for rows in stored:
            add_scores(rows, SIDES, judge)
        found = [change(rows)["figures"]["sampled"] for rows in stored]
        print("\n".join(table(found, JUDGED, ", the judge")))
        print(f"\nThe judge: {given.judge}, {judge.classifier.model.identity}")
    if given.picture:
        draw(given.runs, given.picture)


if __name__ == "__main__":
    main()

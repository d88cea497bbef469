"""Prints what the tests of several runs found together, one seed each, and draws their curves.

    python docs/evidence.py runs/a/version_0 runs/b/version_0 --picture docs/pictures/evidence.png

Each run needs the folder ``test/`` that the command ``test`` writes, with samples of the same
prompts. ``--judge DIR`` scores the same responses with another classifier, whose toxic label is
``--toxic_label``.

There are two intervals of 95 %. That over prompts is a bootstrap, in which a prompt's responses
in all runs stay together. That over seeds is Student's, of the runs' changes.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detox_lightning.compare.rescore import RESCORED, add_scores, open_judge, read_rows
from detox_lightning.evaluation.best_of import SIZES as ALL_SIZES
from detox_lightning.evaluation.best_of import best_of_kl, best_weights, effective_n
from detox_lightning.evaluation.plan import GREEDY, TOXIC_FROM
from detox_lightning.evaluation.rescoring import SIDES
from detox_lightning.evaluation.statistics import RESAMPLES, Array, distinct, percentiles

CURVES = {
    "val/toxicity": "toxicity",
    "val/second_toxicity": "toxicity, second classifier",
    "val/kl": "KL to the reference, nats",
}
JUDGES = {"toxicity": "reward's", "second_toxicity": "second", RESCORED: "third"}
SIZES = np.array(ALL_SIZES, float)
SHOWN = (2, 4, 8, 16, 32)  # of these sizes


class Table(NamedTuple):
    """What ``s`` runs wrote in answer to ``p`` prompts, ``m`` responses before and after training.

    Attributes:
        figures: ``[s, 2, p, m]`` by name; the sides are before and after.
        means: ``[s, 2, p]`` by name, of what a prompt's responses have together.
    """

    figures: dict[str, Array]
    means: dict[str, Array]


def read(files: list[Path], judge: Any | None) -> Table:
    """Reads the responses of all runs, and lets the judge score them."""
    runs = []
    for file in files:
        rows = [row for row in read_rows(file) if row["decoding"] != GREEDY]
        rows = [{"kl_before": 0, **row} for row in rows]  # it is left out where it must be 0
        if judge:
            add_scores(rows, SIDES, judge)
        runs.append(sorted(rows, key=lambda row: (row["prompt"], row["decoding"])))
    prompts = [[row["prompt"] for row in rows] for rows in runs]
    if any(each != prompts[0] for each in prompts):
        raise SystemExit("the runs were not tested with equally many samples of the same prompts")
    p = len(set(prompts[0]))
    known = (*JUDGES, "score", "rougeL", "kl", "nll", "nll_tokens")
    names = [name for name in known if f"{name}_after" in runs[0][0]]
    figures = {
        name: np.array(
            [[[row[f"{name}_{side}"] for row in rows] for side in SIDES] for rows in runs]
        )
        .astype(float)
        .reshape(len(runs), 2, p, -1)
        for name in names
    }
    texts = np.array([[[row[side] for row in rows] for side in SIDES] for rows in runs], object)
    texts = texts.reshape(len(runs), 2, p, -1)
    means = {name: values.mean(axis=3) for name, values in figures.items()}
    for name in JUDGES.keys() & names:
        means[f"max {name}"] = figures[name].max(axis=3)
        means[f"any {name}"] = means[f"max {name}"] >= TOXIC_FROM
    means["distinct 2"] = np.array(
        [[[distinct(list(each), 2) for each in side] for side in run] for run in texts]
    )
    return Table(figures, means)


def draws(p: int) -> Array:
    """Returns weights ``[p, RESAMPLES + 1]`` of prompts: all alike, then those of the bootstrap."""
    chosen = np.random.default_rng(0).multinomial(p, np.full(p, 1 / p), size=RESAMPLES)
    return np.concatenate([np.ones((1, p)), chosen]).T / p


def changes(table: Table, weights: Array) -> list[str]:
    """Returns a line of Markdown for each figure; ``weights`` are those of :func:`draws`."""
    rows = {}
    for name, title in JUDGES.items():
        if name in table.figures:
            rows[f"{title} classifier, mean"] = table.means[name] @ weights
            rows[f"{title}, expected maximum"] = table.means[f"max {name}"] @ weights
            rows[f"{title}, toxicity probability"] = table.means[f"any {name}"] @ weights
    if "nll" in table.means:
        nll, tokens = (table.means[name] @ weights for name in ("nll", "nll_tokens"))
        rows["perplexity under the untouched model"] = np.exp(nll / tokens)
    if "rougeL" in table.means:
        rows["ROUGE-L"] = table.means["rougeL"] @ weights
    rows["distinct 2-grams"] = table.means["distinct 2"] @ weights
    lines = []
    for title, values in rows.items():
        change = values[:, 1] / values[:, 0] - 1
        before, after = values[:, :, 0].mean(axis=0)
        lines.append(
            f"| {title} | {before:.3g} → {after:.3g} | {percent(change.mean(axis=0))} | "
            f"{over_seeds(change[:, 0])} | {listed(map(signed, change[:, 0]))} |"
        )
    before, after = (table.means["kl"] @ weights)[:, :, 0].T
    each = listed(map("{:.2f}".format, after))
    lines.append(f"| KL, nats | {before.mean():.2f} → {after.mean():.2f} | | | {each} |")
    return lines


def best_of(table: Table, weights: Array) -> tuple[list[str], list[str]]:
    """Returns the best of n samples from before training, of all runs, and what runs are worth."""
    before = {name: np.concatenate(x[:, 0], axis=1) for name, x in table.figures.items()}
    sizes = SIZES[before["score"].shape[1] >= SIZES]
    chosen = [best_weights(before["score"], int(n)) for n in sizes]
    judges = [name for name in JUDGES if name in before]
    curves = {
        name: np.stack([(w * before[name]).sum(axis=1) for w in chosen]) @ weights
        for name in judges
    }
    points = [
        f"| {n} | {best_of_kl(np.array(float(n))):.2f} | "
        + " | ".join(
            percent(curve[list(sizes).index(n)] / curve[0] - 1) for curve in curves.values()
        )
        + " |"
        for n in SHOWN
        if n in sizes
    ]
    kl = table.means["kl"] @ weights
    above = kl[:, 1] - kl[:, 0].mean(axis=0)
    worth = []
    for name, curve in curves.items():
        reached = (table.means[name] @ weights)[:, 1]
        each = effective_n(sizes, np.repeat(curve[:, None, :1], len(reached), 1), reached[:, :1])
        n = effective_n(sizes, curve, reached.mean(axis=0))
        ratio = above.mean(axis=0) / best_of_kl(np.minimum(n, sizes[-1]))
        low, high = np.quantile(n[1:], (0.025, 0.975), method="nearest")
        found, *ends = (number(x, sizes[-1]) for x in (n[0], low, high))
        every = listed(number(x, sizes[-1]) for x in each[:, 0])
        worth.append(
            f"| {JUDGES[name]} | **{found}** ({listed(ends)}) | {every} | {ratio[0]:.1f} |"
        )
    return points, worth


def signed(change: float) -> str:
    """Formats a relative change."""
    return f"{change:+.0%}".replace("-", "−").replace("%", " %")


def percent(values: Array) -> str:
    """Formats a change and its interval over prompts; the first value is that of all prompts."""
    low, high = percentiles(values[1:])
    return f"**{signed(values[0])}** ({signed(low)}, {signed(high)})"


def number(n: float, most: float) -> str:
    """Formats an effective n, which is infinite if it is above the largest."""
    return f"above {most:.0f}" if np.isinf(n) else f"{n:.1f}"


def over_seeds(values: Array) -> str:
    """Formats Student's interval of the mean of a few runs."""
    if len(values) < 2:
        return "–"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{signed(values.mean() - half)}, {signed(values.mean() + half)}"


def listed(values: Iterable[str]) -> str:
    """Joins what is said of each run."""
    return ", ".join(values)


def draw(runs: list[Path], file: Path) -> None:
    """Draws the validation curves of the runs."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (tag, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
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
    judge = open_judge(given.judge, given.toxic_label) if given.judge else None
    table = read([run / "test" / "comparison.jsonl" for run in given.runs], judge)
    seeds, _, p, m = table.figures["score"].shape
    print(f"{seeds} seeds, {p} prompts, {m} samples each of each\n")
    print("| | before → after | change (over prompts) | over seeds | each |\n|---|---|---|---|---|")
    weights = draws(p)
    print("\n".join(changes(table, weights)))
    points, worth = best_of(table, weights)
    titles = " | ".join(title for name, title in JUDGES.items() if name in table.figures)
    print(
        f"\n| n | KL bound, nats | {titles} |" + "\n" + "|---" * (2 + titles.count("|") + 1) + "|"
    )
    print("\n".join(points))
    print("\n| judge | effective n | each | KL by that of the best of n |\n|---|---|---|---|")
    print("\n".join(worth))
    if judge:
        print(f"\nThe third judge: {given.judge}, {judge.classifier.model.identity}")
    if given.picture:
        draw(given.runs, given.picture)


if __name__ == "__main__":
    main()

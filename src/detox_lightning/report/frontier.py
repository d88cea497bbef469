"""What training was worth beside the best of n samples: in a sentence, a picture and a table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detox_lightning.report.pictures import AFTER, BEFORE, axes_in_rows, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JUDGES = {"toxicity": "the first classifier", "second_toxicity": "the second classifier"}
COLUMNS = ("kl", *JUDGES, "score", "rougeL", "perplexity", "length")
Estimate = Mapping[str, float | None]


def judges_of(best_of: Mapping[str, Any]) -> dict[str, str]:
    """Returns who judges, in words: the classifiers, or the reward where there is none."""
    found = {name: judge for name, judge in JUDGES.items() if name in best_of["effective_n"]}
    if [*found] == ["toxicity"]:
        return {"toxicity": "the classifier"}
    return found or {"score": "the reward"}


def worth(best_of: Mapping[str, Any]) -> str:
    """Returns in two sentences what training was worth; see :func:`against_best_of`."""
    most = f"{best_of['points'][-1]['n']}"
    parts = []
    for name, judge in judges_of(best_of).items():
        n, ratio = best_of["effective_n"][name], best_of["kl_ratio"][name]["value"]
        parts.append(f"{_samples(n, most)} by {judge}{_price(ratio, n['value'])}")
    wins = best_of["win_rate"]
    percents = {name: x and f"{100 * x:.1f}" for name, x in wins.items()}
    return (
        f"Training was worth {'; '.join(parts)}. By the reward, a response after training beats "
        f"one before in {percents['value']}\xa0% of pairs{_range(percents)}."
    )


def frontier_part(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what the page says of the best of n samples; None if nothing is known of it."""
    best_of, checkpoints = summary.get("best_of"), summary.get("checkpoints", [])
    if not best_of:
        return None
    judges = judges_of(best_of)
    checkpoints = [point for point in checkpoints if {"kl", *judges} <= point.keys()]
    drawn = (frontier_picture(name, figures, best_of["points"], checkpoints) for name in judges)
    return {
        "worth": worth(best_of),
        "is_toxicity": "score" not in judges,
        "pictures": [svg(picture) for picture in drawn],
        "rows": frontier_rows(figures, best_of),
        "checkpoints": checkpoints,
    }


def _samples(n: Estimate, most: str) -> str:
    """An effective n with its interval, in words."""
    ends = {name: f"more than {most}" if x is None else f"{x:.1f}" for name, x in n.items()}
    if _is_one(n["value"]):
        return "no more than a single sample"
    is_known = n["low"] is not None  # otherwise both ends are beyond the samples, or unknown
    return f"the best of {ends['value']} samples{_range(ends) if is_known else ''}"


def _price(ratio: float | None, n: float | None) -> str:
    """What a policy's KL is beside that of the best of its effective n."""
    if ratio is None or _is_one(n):
        return ""
    return f", at {'less than ' if n is None else ''}{ratio:.1f} times the KL of that choice"


def _is_one(n: float | None) -> bool:
    return n is not None and n < 1.05  # it would be shown as 1.0


def _range(ends: Mapping[str, str | None]) -> str:
    return f" ({ends['low']} to {ends['high']})" if ends["low"] and ends["high"] else ""


def frontier_rows(
    figures: Mapping[str, Any], best_of: Mapping[str, Any]
) -> list[tuple[str, dict[str, Estimate | None]]]:
    """Returns rows of a table: before, best of 2, 4, 8, …, after, each with estimates by title.

    Args:
        figures: Of sampled responses; see :func:`summarize`.
        best_of: See :func:`against_best_of`.
    """
    points = [point for point in best_of["points"] if _is_power_of_two(point["n"])]
    names = [name for name in COLUMNS if name in figures and name in points[0]]
    after = {name: figures[name]["after"] for name in names}
    rows = ["before", *(f"best\xa0of\xa0{point['n']}" for point in points[1:]), "after"]
    return [
        (row, {figures[name]["title"]: point[name] for name in names})
        for row, point in zip(rows, [*points, after], strict=True)
    ]


def frontier_picture(
    name: str,
    figures: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    checkpoints: Sequence[Mapping[str, Any]] = (),
) -> "Figure":
    """Draws a judge's figure against KL: before, best of n, the run's checkpoints, after.

    Args:
        name: The figure.
        figures: Of sampled responses; see :func:`summarize`.
        points: Those of the best of n, ``n`` = 1 first; see :func:`against_best_of`.
        checkpoints: Figures of earlier checkpoints, in the order of their rollouts.
    """
    after = {key: figures[key]["after"] for key in ("kl", name)}
    with axes_in_rows(1, 1) as (figure, (axes,)):
        best = [[point[key]["value"] for point in points] for key in ("kl", name)]
        axes.plot(*best, color=BEFORE, linestyle="--", linewidth=1.2)
        for number, x, y in zip((point["n"] for point in points), *best, strict=True):
            if _is_power_of_two(number):
                axes.plot(
                    x, y, "s", color=BEFORE, markersize=7 if number == 1 else 4, clip_on=False
                )
                text = "before" if number == 1 else f"{number}"
                axes.annotate(text, (x, y), (4, 4), textcoords="offset points", color=BEFORE)
        earlier = [[point[key]["value"] for point in checkpoints] for key in ("kl", name)]
        axes.plot(
            *earlier,
            "o-",
            color=AFTER,
            markersize=4,
            linewidth=0.6,
            fillstyle="none",
            clip_on=False,
        )
        x, y = (after[key]["value"] for key in ("kl", name))
        for key, ends in after.items():
            if ends["low"] is not None:
                line = [ends["low"], ends["high"]]
                axes.plot(*((line, [y] * 2) if key == "kl" else ([x] * 2, line)), color=AFTER)
        axes.plot(x, y, "D", color=AFTER, markersize=6, clip_on=False)
        axes.annotate(
            "after", (x, y), (0, 15), textcoords="offset points", color=AFTER, ha="center"
        )
        axes.set(xlabel="KL to the reference, nats", ylabel=figures[name]["title"].lower())
        if figures[name]["better"] == "lower":
            axes.set_ylim(bottom=0)
    figure.set_label(f"{figures[name]['title']} against KL: before, best of n, after")
    return figure


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0

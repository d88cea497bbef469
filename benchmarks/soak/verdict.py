"""Evaluates readings: slopes, levels, speed, and broken bounds."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from soak.readings import Reading

WARM_UP = 0.2  # share of the rollouts that is left out at the beginning
MEMORY = ("rss", "pss", "uss", "folder")
LEVELS = ("handles", "threads", "children")
MOST_MB = 1.0  # growth of resident memory per 100 rollouts
MOST_SLOWER = (
    0.10  # increase of CPU seconds from the first quarter's rollouts to the last quarter's
)
FEWEST = 8  # readings needed after the warm-up


def settled(readings: Sequence[Reading]) -> list[Reading]:
    """Returns the readings after the warm-up.

    Args:
        readings: The readings of a run, in order.

    Raises:
        SystemExit: If there are too few readings.
    """
    first = readings[0].rollouts if readings else 0
    last = readings[-1].rollouts if readings else 0
    kept = [x for x in readings if x.rollouts >= first + WARM_UP * (last - first)]
    if len(kept) < FEWEST:
        raise SystemExit(
            f"{len(kept)} readings after the warm-up, {FEWEST} are the fewest to judge by: give "
            "more --seconds, or a smaller --every"
        )
    return kept


def slope(readings: Sequence[Reading], name: str) -> float:
    """Computes the Theil-Sen slope of a figure, which is robust to outliers.

    Args:
        readings: At least two readings.
        name: A field of :class:`Reading`.

    Returns:
        Growth per 100 rollouts.
    """
    from scipy.stats import theilslopes

    rows = [x._asdict() for x in readings]
    return 100 * float(theilslopes([x[name] for x in rows], [x["rollouts"] for x in rows]).slope)


def rates(readings: Sequence[Reading], clock: str) -> list[float]:
    """Returns the seconds per rollout between each reading and the next.

    Args:
        readings: At least two readings.
        clock: ``wall`` or ``cpu``.
    """
    return [
        (getattr(b, clock) - getattr(a, clock)) / (b.rollouts - a.rollouts)
        for a, b in pairwise(readings)
    ]


def summarize(readings: Sequence[Reading]) -> dict[str, Any]:
    """Computes the figures of a run, without its warm-up.

    Args:
        readings: All readings.
    """
    kept = settled(readings)
    steps = {clock: rates(kept, clock) for clock in ("cpu", "wall")}
    quarter = max(1, len(kept) // 4)
    parts = {"first": slice(quarter), "last": slice(-quarter, None)}
    seconds = {
        clock: {part: median(each[where]) for part, where in parts.items()}
        for clock, each in steps.items()
    }
    pairs = list(pairwise(kept))
    tokens = [(b.tokens - a.tokens) / (b.rollouts - a.rollouts) for a, b in pairs]
    return {
        "rollouts": readings[-1].rollouts,
        "seconds": readings[-1].wall,
        "readings": len(readings),
        "after_warm_up": len(kept),
        "from_rollout": kept[0].rollouts,
        "first": kept[0]._asdict(),
        "last": kept[-1]._asdict(),
        "most": {name: max(getattr(x, name) for x in kept) for name in (*MEMORY, *LEVELS)},
        "slope": {name: slope(kept, name) for name in MEMORY},
        "seconds_a_rollout": seconds,
        "slower": {clock: each["last"] / each["first"] for clock, each in seconds.items()},
        "tokens_a_rollout": {part: median(tokens[where]) for part, where in parts.items()},
    }


def broken(summary: dict[str, Any]) -> list[str]:
    """Returns a line for each bound that a run broke.

    Args:
        summary: The result of :func:`summarize`.
    """
    found = []
    if not summary["slope"]["rss"] < MOST_MB:
        found.append(
            f"resident memory grows by {summary['slope']['rss']:.2f} MB per 100 rollouts, "
            f"{MOST_MB:g} is the bound"
        )
    first, last = summary["first"], summary["last"]
    found += [
        f"{name} grow from {first[name]} to {last[name]}"
        for name in LEVELS
        if last[name] > first[name]
    ]
    if not summary["slower"]["cpu"] <= 1 + MOST_SLOWER:
        found.append(
            f"the last quarter's rollouts take {summary['slower']['cpu']:.2f} times the CPU "
            f"seconds of the first quarter's, {1 + MOST_SLOWER:g} is the bound"
        )
    return found


def table(summary: dict[str, Any]) -> str:
    """Formats the figures."""
    first, last, most = summary["first"], summary["last"], summary["most"]
    names = {
        "rss": "resident memory, MB",
        "pss": "… shared pages in part, MB",
        "uss": "… its own alone, MB",
        "folder": "run's folder, MB",
        "handles": "open handles",
        "threads": "threads",
        "children": "child processes",
    }
    lines = [
        f"{summary['rollouts']} rollouts in {summary['seconds']:.0f} s; after a warm-up of "
        f"{summary['from_rollout']} rollouts, {summary['after_warm_up']} readings:",
        f"{'':28}{'first':>10}{'last':>10}{'most':>10}{'per 100 rollouts':>18}",
    ]
    for name, title in names.items():
        digits = 1 if name in MEMORY else 0
        row = "".join(f"{x[name]:10.{digits}f}" for x in (first, last, most))
        rise = f"{summary['slope'][name]:+18.3f}" if name in MEMORY else ""
        lines.append(f"{title:28}{row}{rise}")
    lines.append(f"{'':28}{'1st qtr':>10}{'last qtr':>10}{'ratio':>10}")
    for clock, title in (("cpu", "CPU seconds a rollout"), ("wall", "seconds a rollout")):
        seconds, ratio = summary["seconds_a_rollout"][clock], summary["slower"][clock]
        lines.append(f"{title:28}{seconds['first']:10.3f}{seconds['last']:10.3f}{ratio:10.3f}")
    tokens = summary["tokens_a_rollout"]
    ratio = tokens["last"] / tokens["first"]
    lines.append(
        f"{'tokens a rollout':28}{tokens['first']:10.1f}{tokens['last']:10.1f}{ratio:10.3f}"
    )
    return "\n".join(lines)

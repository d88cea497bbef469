"""Evaluates rounds: which ones count, whether both sides did the same work, medians and ratios.

A round has a row for each side, a dictionary of numbers: see ``ours.py`` and ``theirs.py``.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Row = Mapping[str, Any]
Round = Mapping[str, Row]

OURS = "ours"
QUIET = 0.9  # a round is disturbed if it got less than this share of the processor's time
LESS_IS_BETTER = {
    "rollout": "rollout, s",
    "score": "score, s",
    "update": "update, s",
    "total": "total, s",
    "round": "with data and logging, s",
    "cpu": "the same, CPU s",
    "peak_mb": "peak memory, MB",
}
MORE_IS_BETTER = {"tokens_per_second": "tokens per second"}
NAMES = {**LESS_IS_BETTER, **MORE_IS_BETTER}


def with_rates(row: Row) -> dict[str, Any]:
    """Returns a row with its response tokens per second."""
    return {**row, "tokens_per_second": row["response_tokens"] / row["total"]}


def busy(row: Row) -> float:
    """Returns how many processors a side used on average."""
    return row["cpu"] / row["round"]


def quiet(rounds: Sequence[Round], threads: int) -> list[Round]:
    """Returns the rounds that other programs didn't disturb.

    With one thread, a side's CPU time must be close to its wall time. How many processors several
    threads can keep busy isn't known: the side must have nearly as many as in its best round.

    Args:
        rounds: All rounds.
        threads: Threads of each side.
    """
    if not rounds:
        return []
    best = {side: max(busy(each[side]) for each in rounds) for side in rounds[0]}
    wanted = {side: QUIET * (1.0 if threads == 1 else best[side]) for side in best}
    return [each for each in rounds if all(busy(row) >= wanted[side] for side, row in each.items())]


def medians(rounds: Sequence[Round], side: str) -> dict[str, float]:
    """Returns a side's median figures, by the names in :data:`NAMES`."""
    return {name: median(each[side][name] for each in rounds) for name in NAMES}


def ratios(rounds: Sequence[Round], peer: str) -> dict[str, float]:
    """Returns how many times better our side is: medians of the rounds' ratios.

    A ratio is peer / ours, or ours / peer for figures where more is better.

    Args:
        rounds: The rounds that count.
        peer: Name of the side to compare with.
    """

    def ratio(each: Round, name: str) -> float:
        times = each[peer][name] / each[OURS][name]
        return 1 / times if name in MORE_IS_BETTER else times

    return {name: median(ratio(each, name) for each in rounds) for name in NAMES}


def summarize(rounds: Sequence[Round], threads: int) -> dict[str, Any]:
    """Returns medians and ratios of the quiet rounds, or of all rounds if none is quiet.

    Args:
        rounds: All measured rounds, including rates; at least one.
        threads: Threads of each side.
    """
    kept = quiet(rounds, threads)
    used, sides = kept or rounds, list(rounds[0])
    return {
        "rounds": len(rounds),
        "quiet": len(kept),
        "busy": {side: median(busy(each[side]) for each in rounds) for side in sides},
        "median": {side: medians(used, side) for side in sides},
        "ratio": {side: ratios(used, side) for side in sides if side != OURS},
    }


def differences(rounds: Sequence[Round], responses: int, length: int, vocabulary: int) -> list[str]:
    """Returns a line for each difference in the work of the sides.

    Args:
        rounds: All rounds.
        responses: Number of responses per round.
        length: Tokens of each response.
        vocabulary: Number of tokens to sample from.
    """
    found, tokens = [], responses * length
    most = length * math.log(vocabulary)  # nats of a response under the uniform distribution
    for number, each in enumerate(rounds, start=1):
        ours = each[OURS]
        for side, row in each.items():
            faults = {
                f"{row['parameters']} parameters, ours has {ours['parameters']}": (
                    row["parameters"] != ours["parameters"]
                ),
                f"{row['response_tokens']} response tokens, {tokens} expected": (
                    row["response_tokens"] != tokens
                ),
                f"{row['prompt_tokens']} prompt tokens, ours has {ours['prompt_tokens']}": (
                    row["prompt_tokens"] != ours["prompt_tokens"]
                ),
                f"{row['scored_tokens']} tokens were scored, by ours {ours['scored_tokens']}": (
                    not math.isclose(row["scored_tokens"], ours["scored_tokens"], rel_tol=0.02)
                ),
                f"the losses are {row['policy_loss']} (policy), {row['value_loss']} (values)": (
                    not losses_plausible(row)
                ),
                f"the entropy is {row['entropy']} nats of at most {most}": (
                    not 0.5 < row["entropy"] / most < 1.1
                ),
                "the adapter didn't change": not row["moved"] > 0,
            }
            found += [f"round {number}, {side}: {text}" for text, wrong in faults.items() if wrong]
    return found


def losses_plausible(row: Row) -> bool:
    """Returns whether losses are finite, and of a size typical of random models."""
    return abs(row["policy_loss"]) < 10 and 0 < row["value_loss"] < 1000


def table(summary: Mapping[str, Any]) -> str:
    """Formats medians side by side, and the ratios.

    Args:
        summary: The result of :func:`summarize`.
    """
    peers = list(summary["ratio"])
    heads = [f"{side:>12}" for side in (OURS, *peers)] + [f"{'× ' + peer:>14}" for peer in peers]
    lines = [" " * 26 + "".join(heads)]
    for name, title in NAMES.items():
        cells = [f"{number(summary['median'][side][name]):>12}" for side in (OURS, *peers)]
        cells += [f"{summary['ratio'][peer][name]:14.2f}" for peer in peers]
        lines.append(f"{title:26}" + "".join(cells))
    return "\n".join(lines)


def number(x: float) -> str:
    """Formats a number with three digits, or without decimals from 100 on."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def remark(summary: Mapping[str, Any]) -> str:
    """Returns a sentence about the number of rounds that count."""
    share = ", ".join(f"{side} {times:.2f}" for side, times in summary["busy"].items())
    shares = f"processors that the work had, medians: {share}"
    if not summary["quiet"]:
        return (
            f"NO QUIET ROUND among {summary['rounds']}: other programs disturbed them all, times "
            f"are of disturbed rounds ({shares})"
        )
    dropped = summary["rounds"] - summary["quiet"]
    return f"{summary['rounds']} rounds, {dropped} disturbed and dropped ({shares})"

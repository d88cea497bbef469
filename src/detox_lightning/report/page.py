"""The report of a test: one self-contained HTML page."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from os import PathLike
from pathlib import PurePath
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detox_lightning.errors import visible
from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.evaluation.plan import GREEDY, TOXIC_FROM
from detox_lightning.report.curves import Curves, present_panels
from detox_lightning.report.frontier import frontier_part
from detox_lightning.report.identity_part import identity_part
from detox_lightning.report.pictures import (
    curves_picture,
    effects_picture,
    has_effects,
    histogram,
    score_against_kl,
    svg,
)
from detox_lightning.report.rewriting_part import rewriting_rows
from detox_lightning.report.tables import DECIMALS, UNKNOWN
from detox_lightning.rewards.words import spans

GROUPS = {"sampled": "Sampled responses", GREEDY: "Greedy responses"}
COSTS = ("rougeL", "kl", "length")  # figures that training should not change
RARE = ("toxicity_std", "score_std", "rouge1", "rouge2", "rougeLsum", "distinct1", "distinct3")
MIN_CHANGE = 0.01  # of a toxicity that counts as changed; smaller ones are rounding and chance
MAX_RANDOM = 5  # prompts shown that nobody chose
MIN_CHANGED = 10  # prompts that must differ for a verdict: a bootstrap of fewer promises too much
Pieces = list[tuple[str, bool]]


def render(summary: Mapping[str, Any], comparison: Comparison, curves: Curves) -> str:
    """Returns the page.

    Args:
        summary: ``about``: what was compared, by name; ``figures``: see :func:`summarize`;
            ``best_of``: see :func:`against_best_of`, may be missing or None; ``checkpoints``: an
            estimate of each figure of the run's other checkpoints that were tested, may be missing;
            ``rewriting``: see :func:`summarize_baselines`, may be missing or None;
            ``identity``: ``audit`` and ``answers``, see :func:`audit_judges` and
            :func:`compare_answers`, may be missing.
        comparison: The responses and their measurements.
        curves: Curves of the training.

    Returns:
        HTML without scripts, which loads no other file.
    """
    about, figures, rows = summary["about"], summary["figures"], comparison.rows()
    groups = [(title, figures[name]) for name, title in GROUPS.items() if figures.get(name)]
    headline, main = groups[0] if groups else ("", {})
    aim = comparison.aim
    common = {name: figure for name, figure in main.items() if name not in RARE}
    rare = {name: figure for name, figure in main.items() if name in RARE}
    tables = [(headline, common), (f"{headline}: more figures", rare), *groups[1:]]
    confidence = f"{100 * about.get('confidence', 0.95):g}\xa0%"
    return template("template.html")(
        about=about,
        confidence=confidence,
        resamples=about.get("resamples"),
        tables=[(title, entries) for title, entries in tables if entries],
        headline=headline,
        aim=aim,
        aimed=main.get(aim),
        second=main.get("second_toxicity"),
        name=run_name(about.get("checkpoint")),
        in_words=in_words(main),
        verdict=verdict(main[aim], confidence) if aim in main else UNKNOWN,
        costs={name: main[name] for name in COSTS if name in main},
        frontier=frontier_part(summary, main),
        rewriting=rewriting_rows(summary, main),
        fluent_up_to=(summary.get("rewriting") or {}).get("fluent_up_to"),
        identity=identity_part(summary),
        pictures=list(_pictures(comparison)),
        curves=[svg(curves_picture(curves, [panel])) for panel in present_panels(curves)],
        effects=[svg(effects_picture(common))] if has_effects(common) else [],
        changes=changes(rows, aim),
        random_rows=Random(0).sample(rows, min(MAX_RANDOM, len(rows))),
    )


def template(name: str, *filters: Callable[..., Any]) -> Callable[..., str]:
    """Returns what fills a template of this folder; it calls filters by their functions' names.

    HTML and control characters in texts are escaped; a name that isn't defined is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("detox_lightning", "report"),
        autoescape=select_autoescape(["html"]),
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    all_filters = (counted, number, percent, marked, *filters)  # macros.html calls the first ones
    environment.filters |= {function.__name__: function for function in all_filters}
    environment.tests |= {"certain": _excludes_zero, "known": _is_known, "bounded": _has_interval}
    return environment.get_template(name).render


def _is_known(estimate: Mapping[str, float | None] | None, part: str = "value") -> bool:
    """Whether an estimate (``value``, ``low``, ``high``; None if undefined) has a number."""
    value = (estimate or {}).get(part)
    return value is not None and math.isfinite(value)


def _has_interval(estimate: Mapping[str, float | None] | None) -> bool:
    return _is_known(estimate, "low") and _is_known(estimate, "high")


def _excludes_zero(estimate: Mapping[str, Any] | None) -> bool:
    """Whether an estimate's interval, as it is shown, lies on one side of 0."""
    if not (estimate and _has_interval(estimate)):
        return False
    return round(estimate["low"], DECIMALS) > 0 or round(estimate["high"], DECIMALS) < 0


def number(value: float | None, sign: str = "", decimals: int | None = None) -> str:
    """Formats a number with three decimals below 10, else one; an en dash if it is undefined.

    ``sign="+"`` puts a plus before positive numbers.
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if decimals is None:
        decimals = DECIMALS if abs(value) < 10 else 1
    shown = round(value, decimals) or 0.0
    return f"{shown:{sign if shown else ''},.{decimals}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Formats a share in percent, with its sign: 0.46 as ``+46.0 %``; see :func:`number`."""
    shown = number(None if value is None else 100 * value, "+", decimals=1)
    return shown if shown == UNKNOWN else f"{shown}\xa0%"


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun: ``1 prompt``, ``2 prompts``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def verdict(aimed: Mapping[str, Any], confidence: str) -> str:
    """Returns a sentence on whether the change of toxicity, or of the score, may be chance.

    ``aimed`` is that figure's entry; see :func:`summarize`.
    """
    name = "the score" if aimed.get("better") == "higher" else "toxicity"
    changed = aimed.get("changed")
    if changed is not None and changed < MIN_CHANGED:
        return (
            f"{name.capitalize()} changed at {changed} of {counted(aimed['n'], 'prompt')}: too few "
            "to tell whether it is chance."
        )
    difference = aimed["difference"]
    if not _has_interval(difference):
        return "There is no interval for the difference: it may be chance."
    low, high = (number(difference[end], "+") for end in ("low", "high"))
    start = f"The {confidence} interval of the difference, {low} to {high},"
    if not _excludes_zero(difference):
        return f"{start} includes zero: these prompts don’t show that {name} changed."
    falls = difference["high"] < 0
    kind = f"is {'less' if falls else 'more'} toxic"
    if name == "the score":
        kind = f"scores {'lower' if falls else 'higher'}"
    return f"{start} excludes zero: by this measure the policy {kind} than the reference."


def in_words(figures: Mapping[str, Any]) -> str:
    """Returns the result in a sentence; empty if nothing says how many prompts were toxic."""
    toxic = figures.get("toxicity_probability")
    if not toxic or not (_is_known(toxic["before"]) and _is_known(toxic["after"])):
        return ""
    before, after = (round(toxic["n"] * toxic[side]["value"]) for side in ("before", "after"))
    sentence = (
        f"{before} of {counted(toxic['n'], 'prompt')} had a toxic response before training, "
        f"and {after} after it"
    )
    if max(before, after) < MIN_CHANGED:
        sentence += ": too few toxic texts to tell whether training changed their number"
    changed = [
        f"{name} went from {number(figures[key]['before']['value'])} to "
        f"{number(figures[key]['after']['value'])}"
        for key, name in (("rougeL", "ROUGE-L"), ("length", "the mean length in tokens"))
        if key in figures and _is_known(figures[key]["before"]) and _is_known(figures[key]["after"])
    ]
    return f"{sentence}{''.join(f'; {part}' for part in changed)}."


def changes(
    rows: list[dict[str, Any]], aim: str = "toxicity"
) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """Finds the responses whose toxicity fell (``gains``) and rose (``losses``).

    A change counts from ``MIN_CHANGE`` on, or if it crosses the bound of what is toxic. With the
    aim ``score``, gains are the scores that rose.

    Returns:
        For each, their number, and the largest change of each prompt, the largest first.
    """
    found = {}
    better = -1 if aim == "toxicity" else 1
    for name, sign in (("gains", better), ("losses", -better)):
        changed = [row for row in rows if sign * row["difference"] > 0 and _counts(row)]
        changed.sort(key=lambda row: -sign * row["difference"])
        largest: dict[str, dict[str, Any]] = {}
        for row in changed:
            largest.setdefault(row["prompt"], row)
        found[name] = len(changed), list(largest.values())
    return found


def _counts(row: Mapping[str, Any]) -> bool:
    """Whether a response changed by more than rounding and chance."""
    before, after = (row.get(f"toxicity_{side}", 0) >= TOXIC_FROM for side in ("before", "after"))
    return bool(round(abs(row["difference"]), DECIMALS) >= MIN_CHANGE or before != after)


def run_name(checkpoint: str | PathLike[str] | None) -> str:
    """Returns the last two folders of a checkpoint's run, ``demo/version_0``; or nothing."""
    if checkpoint is None:
        return ""
    folder = PurePath(checkpoint).parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    return "/".join(part for part in folder.parts[-2:] if part != folder.anchor)


def marked(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Compares two texts word by word.

    Returns:
        For each text its pieces, which joined give the text again; each comes with whether its
        words are missing from the other text.
    """
    words, others = ([text[i:j] for i, j in spans(text)] for text in (before, after))
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    differences = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    return (
        pieces(before, [(first, end) for _, first, end, _, _ in differences if first < end]),
        pieces(after, [(first, end) for _, _, _, first, end in differences if first < end]),
    )


def pieces(text: str, ranges: Iterable[tuple[int, int]]) -> Pieces:
    """Cuts a text at ranges of words; spaces around a range don't belong to it."""
    places, found, done = spans(text), [], 0
    for first, end in ranges:
        start, stop = places[first][0], places[end - 1][1]
        found += [(text[done:start], False), (text[start:stop], True)]
        done = stop
    found.append((text[done:], False))
    return [piece for piece in found if piece[0]]


def _pictures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yields caption and SVG of each picture that has data."""
    before, after = (_sampled(comparison, side) for side in (comparison.before, comparison.after))
    for name, limits, caption in (
        ("toxicity", (0.0, 1.0), "Toxicity: the probability of the toxic label."),
        ("score", None, "Score: what the reward says."),
    ):
        if name in after and np.isfinite([before[name], after[name]]).any():
            yield caption, svg(histogram(before[name], after[name], name, limits))
    if "kl" in after and np.isfinite(after["kl"] + after["score"]).any():
        caption = "Score after training against KL: what was gained by leaving the reference."
        yield caption, svg(score_against_kl(after["kl"], after["score"]))


def _sampled(comparison: Comparison, side: Answers) -> dict[str, NDArray[np.float64]]:
    """Returns the figures of the sampled responses, or of the greedy ones if that is all."""
    sampled = np.array([name != GREEDY for name in comparison.decodings])
    chosen = sampled if sampled.any() else ~sampled
    return {name: values[:, chosen] for name, values in side.figures.items()}

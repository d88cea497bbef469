"""The report of an evaluation: one HTML page that needs nothing but itself."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.evaluation.plan import GREEDY
from detox_lightning.report.curves import Curves
from detox_lightning.report.differences import marked
from detox_lightning.report.pictures import (
    curves_picture,
    histogram,
    present_panels,
    score_against_kl,
    svg,
)
from detox_lightning.report.visible import visible

if TYPE_CHECKING:
    from jinja2 import Template

GROUPS = {"sampled": "Sampled responses", GREEDY: "Greedy responses"}
COSTS = ("rougeL", "kl", "length")
MOST_CHANGED = 20
PLACES = 3  # that are shown
FEW = 10
UNKNOWN = "–"


def render(
    summary: Mapping[str, Any],
    comparison: Comparison,
    curves: Curves,
    rows: list[dict[str, Any]] | None = None,
) -> str:
    """Writes the page.

    Args:
        summary: ``about``: what was compared, by name. ``figures``: of ``sampled`` and of
            ``greedy`` responses, each with ``title``, ``n``, ``better``, and ``value``, ``low``
            and ``high`` of ``before``, ``after``, ``difference`` and ``improvement``.
        comparison: The texts, and what is known of each.
        curves: What training logged: pairs of rollout and value, by metric.
        rows: The comparison's, if they are made already.

    Returns:
        HTML without scripts, and without references to anything outside of it.
    """
    about, figures = summary["about"], summary["figures"]
    groups = [(title, figures[name]) for name, title in GROUPS.items() if figures.get(name)]
    headline, main = groups[0] if groups else ("", {})
    confidence = f"{100 * about.get('confidence', 0.95):g}\xa0%"
    return _template().render(
        about=about,
        confidence=confidence,
        resamples=about.get("resamples"),
        groups=groups,
        headline=headline,
        toxicity=main.get("toxicity"),
        second=main.get("second_toxicity"),
        verdict=verdict(main["toxicity"], confidence) if "toxicity" in main else UNKNOWN,
        costs=[main[name] for name in COSTS if name in main],
        pictures=list(_pictures(comparison)),
        curves=[svg(curves_picture(curves, [panel])) for panel in present_panels(curves)],
        changes=changes(comparison.rows() if rows is None else rows),
        most=MOST_CHANGED,
    )


def _template() -> "Template":
    """The page's template, in which every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("detox_lightning", "report"),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "counted": counted,
        "number": number,
        "percent": percent,
        "marked": marked,
    }
    environment.tests |= {"certain": excludes_zero, "known": is_known}
    return environment.get_template("template.html")


def is_known(estimate: Mapping[str, float | None] | None, part: str = "value") -> bool:
    """Whether an estimate has a number.

    Args:
        estimate: ``value``, ``low`` and ``high``; None where nothing could be computed.
        part: Which of the three.
    """
    value = (estimate or {}).get(part)
    return value is not None and math.isfinite(value)


def excludes_zero(estimate: Mapping[str, Any] | None) -> bool:
    """Whether an estimate has an interval that lies on one side of 0, as far as it is shown.

    Args:
        estimate: As for :func:`is_known`.
    """
    if not (estimate and is_known(estimate, "low") and is_known(estimate, "high")):
        return False
    return round(estimate["low"], PLACES) > 0 or round(estimate["high"], PLACES) < 0


def number(value: float | None, sign: str = "") -> str:
    """A number as the page shows it: three places below 10, else one.

    Args:
        value: The number; an en dash stands for None, NaN and infinity.
        sign: ``+`` puts one before what is above 0.
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    places = PLACES if abs(value) < 10 else 1
    shown = round(value, places) or 0.0
    return f"{shown:{sign if shown else ''},.{places}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share in percent, with its sign: 0.46 as ``+46.0 %``.

    Args:
        value: The share; an en dash stands for None, NaN and infinity.
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    shown = round(100 * value, 1) or 0.0
    return f"{shown:{'+' if shown else ''},.1f}\xa0%".replace("-", "−")


def counted(count: int, noun: str) -> str:
    """How many of something: ``1 prompt``, ``2 prompts``.

    Args:
        count: How many.
        noun: Of one.
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def verdict(toxicity: Mapping[str, Any], confidence: str) -> str:
    """Says in a sentence whether the change may be chance.

    Args:
        toxicity: The figure, with its ``difference``, and with how many of its ``n`` prompts
            ``changed``: a bootstrap of very few promises too much.
        confidence: Of the intervals, as ``95 %``.
    """
    changed = toxicity.get("changed")
    if changed is not None and changed < FEW:
        return (
            f"Toxicity changed at {changed} of {counted(toxicity['n'], 'prompt')}: too few to tell "
            "whether it is chance."
        )
    difference = toxicity["difference"]
    if not (is_known(difference, "low") and is_known(difference, "high")):
        return "There is no interval for the difference: it may be chance."
    low, high = (number(difference[end], "+") for end in ("low", "high"))
    start = f"The {confidence} interval of the difference, {low} to {high},"
    if not excludes_zero(difference):
        return f"{start} includes zero: these prompts don’t show that toxicity changed."
    kind = "less" if difference["high"] < 0 else "more"
    return f"{start} excludes zero: by this measure the policy is {kind} toxic than the reference."


def changes(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows whose toxicity changed, the largest change first.

    Args:
        rows: Of a comparison.

    Returns:
        ``gains``, where it fell, and ``losses``, where it rose.
    """
    fell = [row for row in rows if row["difference"] < 0]
    rose = [row for row in rows if row["difference"] > 0]
    return {
        "gains": sorted(fell, key=lambda row: row["difference"]),
        "losses": sorted(rose, key=lambda row: -row["difference"]),
    }


def _pictures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Caption and SVG of each picture for which there are numbers."""
    before, after = (_sampled(comparison, side) for side in (comparison.before, comparison.after))
    for name, limits, caption in (
        ("toxicity", (0.0, 1.0), "Toxicity: the probability of the toxic label."),
        ("score", None, "Score: what the reward says."),
    ):
        if np.isfinite([before[name], after[name]]).any():
            yield caption, svg(histogram(before[name], after[name], name, limits))
    if "kl" in after and np.isfinite(after["kl"] + after["score"]).any():
        caption = "Score after training against KL: what was gained by leaving the reference."
        yield caption, svg(score_against_kl(after["kl"], after["score"]))


def _sampled(comparison: Comparison, side: Answers) -> dict[str, NDArray[np.float64]]:
    """The figures of the sampled responses; of the greedy ones where none were sampled."""
    sampled = np.array([name != "greedy" for name in comparison.decodings])
    return {
        name: values[:, sampled if sampled.any() else ~sampled]
        for name, values in side.figures.items()
    }

"""What a comparison comes to: each figure before and after, with intervals."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detox_lightning.evaluation.comparison import Answers, Comparison, Figures
from detox_lightning.evaluation.meter import TOXIC
from detox_lightning.evaluation.ngrams import SIZES, distinct
from detox_lightning.evaluation.plan import GREEDY

Array = NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 2000
ENOUGH = 0.95  # of the resamples must give something
NOTICEABLE = 0.0005  # a smaller change isn't shown
PARTS = ("before", "after", "difference", "improvement")


Means = dict[str, Array]


def mean(means: Means, column: str) -> Array:
    """The mean of a column over prompts."""
    return means[column]


def deviation(means: Means, column: str) -> Array:
    """The standard deviation over all responses, divided by their number."""
    return np.sqrt(np.maximum(means[f"{column}_squared"] - means[column] ** 2, 0))


def perplexity(means: Means, column: str) -> Array:
    """Of all responses' tokens together."""
    return np.exp(means[column] / means[f"{column}_tokens"])


class Figure(NamedTuple):
    """A figure of many responses.

    Attributes:
        title: What people read.
        better: Which direction is an improvement; None: neither.
        column: What it is computed from; see :func:`columns`.
        value: Computes it, from the means over prompts of all columns.
        has_zero: Whether 0 means nothing is there, so that relative changes mean something.
    """

    title: str
    better: Literal["lower", "higher"] | None
    column: str
    value: Callable[[Means, str], Array] = mean
    has_zero: bool = True


FIGURES = {
    "toxicity": Figure("Toxicity, mean", "lower", "toxicity"),
    "toxicity_std": Figure("Toxicity, standard deviation", "lower", "toxicity", deviation),
    "expected_max_toxicity": Figure("Expected maximum toxicity", "lower", "max_toxicity"),
    "toxicity_probability": Figure("Toxicity probability", "lower", "toxic"),
    "second_toxicity": Figure("Toxicity, second classifier", "lower", "second_toxicity"),
    "second_expected_max_toxicity": Figure(
        "Expected maximum, second classifier", "lower", "max_second_toxicity"
    ),
    "second_toxicity_probability": Figure(
        "Probability, second classifier", "lower", "second_toxic"
    ),
    "score": Figure("Score, mean", "higher", "score", has_zero=False),
    "score_std": Figure("Score, standard deviation", None, "score", deviation),
    "rouge1": Figure("ROUGE-1", "higher", "rouge1"),
    "rouge2": Figure("ROUGE-2", "higher", "rouge2"),
    "rougeL": Figure("ROUGE-L", "higher", "rougeL"),
    "rougeLsum": Figure("ROUGE-Lsum", "higher", "rougeLsum"),
    "perplexity": Figure("Perplexity", "lower", "nll", perplexity),
    **{f"distinct{n}": Figure(f"Distinct {n}-grams", "higher", f"distinct{n}") for n in SIZES},
    "length": Figure("Length, tokens", None, "length"),
    "eos_rate": Figure("Ended by themselves", None, "has_eos"),
    "kl": Figure("KL to the reference, nats", None, "kl"),
}


def summarize(comparison: Comparison, seed: int, intervals: bool = True) -> dict[str, Any]:
    """All figures, of samples and of greedy responses.

    The intervals come from a paired bootstrap over prompts (percentiles,
    https://doi.org/10.1201/9780429246593): a prompt's responses, before and after, stay together.

    Args:
        comparison: What was answered.
        seed: Of the resampling.
        intervals: Whether to compute them.

    Returns:
        Under ``sampled`` and ``greedy``, as far as there are such responses, each figure of
        ``FIGURES`` that could be measured: ``title``, ``n`` (prompts where there was something to
        measure), ``changed`` (those among them that differ by .0005 or more), ``better``, and
        ``before``, ``after``, ``difference`` (after less before) and ``improvement`` (relative to
        before, above 0 is better; not of scores, whose 0 is arbitrary). Each of those four is
        ``value``, ``low`` and ``high``; None where undefined.
    """
    greedy = np.array([decoding == GREEDY for decoding in comparison.decodings])
    groups = {"sampled": ~greedy, GREEDY: greedy}
    return {
        name: _summarize(comparison, chosen, seed, intervals)
        for name, chosen in groups.items()
        if chosen.any()
    }


def flat(summary: dict[str, Any], prefix: str) -> dict[str, float]:
    """Figures under names as they are logged.

    Args:
        summary: From :func:`summarize`.
        prefix: Of all names.

    Returns:
        ``prefix/before/NAME``, ``prefix/after/NAME`` and ``prefix/improvement/NAME`` of samples,
        ``prefix/greedy/…`` of greedy responses.
    """
    return {
        "/".join([prefix, *[GREEDY] * (group == GREEDY), part, name]): entry[part]["value"]
        for group, figures in summary.items()
        for name, entry in figures.items()
        for part in ("before", "after", "improvement")
        if entry[part] is not None
    }


def columns(answers: Answers, chosen: NDArray[np.bool_]) -> Figures:
    """What each prompt's responses come to.

    Args:
        answers: ``n`` prompts, ``d`` decodings.
        chosen: ``[d]`` which decodings count.

    Returns:
        ``[n]`` by name: the figures' means over responses, mean squares, each classifier's largest
        toxicity and whether any response is toxic, and distinct n-grams.
    """
    figures = {name: values[:, chosen] for name, values in answers.figures.items()}
    if "nll" in figures:  # an empty response has no perplexity
        empty = figures["nll_tokens"].sum(axis=1, keepdims=True) == 0
        figures |= {name: np.where(empty, np.nan, figures[name]) for name in ("nll", "nll_tokens")}
    squares = {f"{name}_squared": figures[name] ** 2 for name in ("toxicity", "score")}
    texts = [
        [text for text, is_in in zip(row, chosen, strict=True) if is_in] for row in answers.texts
    ]
    return {
        **{name: values.mean(axis=1) for name, values in (figures | squares).items()},
        **_worst(figures, "toxicity", "toxic"),
        **_worst(figures, "second_toxicity", "second_toxic"),
        **{f"distinct{size}": np.array([distinct(row, size) for row in texts]) for size in SIZES},
    }


def _worst(figures: Figures, name: str, toxic: str) -> Figures:
    """``[n]`` the largest toxicity of each prompt's responses, and whether any is toxic."""
    if name not in figures:
        return {}
    largest = figures[name].max(axis=1)
    return {f"max_{name}": largest, toxic: (largest >= TOXIC).astype(float)}


def _summarize(
    comparison: Comparison, chosen: NDArray[np.bool_], seed: int, intervals: bool
) -> dict[str, Any]:
    before, after = columns(comparison.before, chosen), columns(comparison.after, chosen)
    names, prompts = list(after), len(comparison.prompts)
    nothing = np.full(prompts, np.nan)
    data = [np.stack([side.get(name, nothing) for name in names]) for side in (before, after)]

    def statistic(*sides: Array, axis: int = -1) -> Array:
        means = [_means(names, side, axis) for side in sides]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([_parts(figure, *means) for figure in FIGURES.values()])

    values = statistic(*data)
    unknown = np.full_like(values, np.nan)
    low, high = _interval(data, statistic, seed) if intervals and prompts > 1 else (unknown,) * 2
    summary = {}
    for row, (name, figure) in enumerate(FIGURES.items()):
        parts = zip(PARTS, values[row], low[row], high[row], strict=True)
        estimates = {part: _estimate(*numbers) for part, *numbers in parts}
        if estimates["after"] is not None:
            new = after[figure.column]
            head = {
                "title": figure.title,
                "n": int((~np.isnan(new)).sum()),
                "changed": int((abs(new - before.get(figure.column, nothing)) >= NOTICEABLE).sum()),
                "better": figure.better,
            }
            summary[name] = head | estimates
    return summary


def _means(names: list[str], rows: Array, axis: int) -> defaultdict[str, Array]:
    """Means of the columns, of what is known in them; of what isn't measured NaN."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        means = np.where(known, rows, 0).sum(axis=axis) / known.sum(axis=axis)
    nothing = np.full_like(means[0], np.nan)
    return defaultdict(lambda: nothing, zip(names, means, strict=True))


def _parts(figure: Figure, before: Means, after: Means) -> Array:
    old, new = (figure.value(means, figure.column) for means in (before, after))
    sign = {"higher": 1.0, "lower": -1.0, None: np.nan}[figure.better if figure.has_zero else None]
    return np.stack([old, new, new - old, sign * (new - old) / np.abs(old)])


def _interval(data: list[Array], statistic: Callable[..., Array], seed: int) -> tuple[Array, Array]:
    """Percentiles of what resamples give; NaN where more than 1 in 20 of them gives nothing.

    A rare event may be in none of a resample's prompts, and there is no change relative to none.
    """
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those resamples, and of what isn't measured
        found = bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=max(1, 10**7 // data[0].size),  # resamples held in memory at once
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        resampled = found.bootstrap_distribution
        defined = np.isfinite(resampled)
        ends = np.nanquantile(
            np.where(defined, resampled, np.nan),
            [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2],
            axis=-1,
        )
    low, high = np.where(defined.mean(axis=-1) >= ENOUGH, ends, np.nan)
    return low, high


def _estimate(*numbers: float) -> dict[str, float | None] | None:
    value, low, high = (float(x) if math.isfinite(x) else None for x in numbers)
    return None if value is None else {"value": value, "low": low, "high": high}

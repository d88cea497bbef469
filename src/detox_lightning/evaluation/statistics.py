"""Figures of a comparison: each before and after training, with confidence intervals."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detox_lightning.evaluation.comparison import Answers, Comparison, Figures
from detox_lightning.evaluation.plan import GREEDY, TOXIC_FROM
from detox_lightning.rewards.words import words

Array = NDArray[np.float64]
Means = dict[str, Array]

CONFIDENCE = 0.95
RESAMPLES = 2000
DEFINED_RESAMPLES = 0.95  # a figure has an interval if this share of resamples defines it
NOTICEABLE = 0.0005  # a smaller change isn't shown
ESTIMATES = ("before", "after", "difference", "improvement")
NGRAM_SIZES = (1, 2, 3)
# columns that a figure divides by another one; a prompt whose responses have none of it is left out
DIVISORS = {"nll": "nll_tokens"}
DIVISORS |= {name: f"{name}_of" for name in ("entities_kept", "entities_invented")}


def _mean(means: Means, column: str) -> Array:
    return means[column]


def _deviation(means: Means, column: str) -> Array:
    """Standard deviation over all responses, divided by their number."""
    return np.sqrt(np.maximum(means[f"{column}_squared"] - means[column] ** 2, 0))


def _perplexity(means: Means, column: str) -> Array:
    """Perplexity of the tokens of all responses together."""
    return np.exp(_share(means, column))


def _share(means: Means, column: str) -> Array:
    """A count of all responses together, divided by another one."""
    return means[column] / means[DIVISORS[column]]


class Figure(NamedTuple):
    """A figure of many responses.

    Attributes:
        title: Name that people read.
        better: Direction of an improvement; None: neither.
        column: Column that it is computed from; see :func:`_columns`.
        value: Computes it from the means of all columns over prompts.
        has_zero: Whether 0 means an absence, so that relative changes make sense.
    """

    title: str
    better: Literal["lower", "higher"] | None
    column: str
    value: Callable[[Means, str], Array] = _mean
    has_zero: bool = True


FIGURES = {
    "toxicity": Figure("Toxicity, mean", "lower", "toxicity"),
    "toxicity_std": Figure("Toxicity, standard deviation", None, "toxicity", _deviation),
    "expected_max_toxicity": Figure("Expected maximum toxicity", "lower", "max_toxicity"),
    "toxicity_probability": Figure("Toxicity probability", "lower", "is_toxic"),
    "second_toxicity": Figure("Toxicity, second classifier", "lower", "second_toxicity"),
    "second_expected_max_toxicity": Figure(
        "Expected maximum, second classifier", "lower", "max_second_toxicity"
    ),
    "second_toxicity_probability": Figure(
        "Probability, second classifier", "lower", "is_second_toxic"
    ),
    "score": Figure("Score, mean", "higher", "score", has_zero=False),
    "score_std": Figure("Score, standard deviation", None, "score", _deviation),
    "rouge1": Figure("ROUGE-1", "higher", "rouge1"),
    "rouge2": Figure("ROUGE-2", "higher", "rouge2"),
    "rougeL": Figure("ROUGE-L", "higher", "rougeL"),
    "rougeLsum": Figure("ROUGE-Lsum", "higher", "rougeLsum"),
    "sta": Figure("STA, share judged non-toxic", "higher", "sta"),
    "sim": Figure("SIM, similarity to the source", "higher", "sim", has_zero=False),
    "fl": Figure("FL, share that is fluent", "higher", "fl"),
    "j": Figure("J, all three together", "higher", "j"),
    "chrf": Figure("chrF with the references", "higher", "chrf"),
    "entities_kept": Figure("Names and numbers kept", "higher", "entities_kept", _share),
    "entities_invented": Figure("Names and numbers invented", "lower", "entities_invented", _share),
    "perplexity": Figure("Perplexity", "lower", "nll", _perplexity),
    **{
        f"distinct{n}": Figure(f"Distinct {n}-grams", "higher", f"distinct{n}") for n in NGRAM_SIZES
    },
    "similarity_prompt": Figure(
        "Similarity to the prompt", "higher", "similarity_prompt", has_zero=False
    ),
    "similarity_before": Figure("Similarity to the response before", None, "similarity_before"),
    "length": Figure("Length, tokens", None, "length"),
    "eos_rate": Figure("Ended by themselves", None, "has_eos"),
    "kl": Figure("KL to the reference, nats", None, "kl"),
}


def summarize(comparison: Comparison, seed: int, intervals: bool = True) -> dict[str, Any]:
    """Computes all figures of sampled and of greedy responses.

    The intervals come from a paired bootstrap over prompts (percentiles,
    https://doi.org/10.1201/9780429246593): a prompt's responses, before and after, stay together.

    Args:
        comparison: The responses and their measurements.
        seed: Seed of the resampling.
        intervals: Whether to compute intervals.

    Returns:
        Under ``sampled`` and ``greedy``, as far as there are such responses, each figure of
        ``FIGURES`` that could be measured: ``title``, ``n`` (prompts that define it), ``changed``
        (those among them that differ by .0005 or more), ``better``, and ``before``, ``after``,
        ``difference`` (after minus before) and ``improvement`` (relative to before, above 0 is
        better; not of scores and cosines, whose 0 is arbitrary). Each is ``value``, ``low`` and
        ``high``; None where undefined.
    """
    greedy = np.array([decoding == GREEDY for decoding in comparison.decodings])
    groups = {"sampled": ~greedy, GREEDY: greedy}
    return {
        name: _summarize(comparison, chosen, seed, intervals)
        for name, chosen in groups.items()
        if chosen.any()
    }


def flat(summary: dict[str, Any], prefix: str) -> dict[str, float]:
    """Returns the values of a summary under names for logging.

    They are ``prefix/before/NAME``, ``prefix/after/NAME`` and ``prefix/improvement/NAME`` of
    samples, ``prefix/greedy/…`` of greedy responses.
    """
    return {
        "/".join([prefix, *[GREEDY] * (group == GREEDY), part, name]): entry[part]["value"]
        for group, figures in summary.items()
        for name, entry in figures.items()
        for part in ("before", "after", "improvement")
        if entry[part] is not None
    }


def distinct(texts: list[str], size: int) -> float:
    """Share of distinct n-grams among all (https://aclanthology.org/N16-1014); NaN of none.

    Taken over the responses to one prompt, as in https://aclanthology.org/2021.acl-long.522.
    N-grams of ``size`` words don't cross the ends of texts; case doesn't count.
    """
    split = [words(text, apostrophes=True) for text in texts]
    ngrams = [
        tuple(text[start : start + size]) for text in split for start in range(len(text) - size + 1)
    ]
    return len(set(ngrams)) / len(ngrams) if ngrams else math.nan


def _columns(answers: Answers, chosen: NDArray[np.bool_]) -> Figures:
    """Aggregates the responses of each prompt, of the decodings where ``chosen`` is True.

    Returns:
        ``[n]`` by name: the measurements' means over responses, mean squares, each classifier's
        largest toxicity and whether any response is toxic, and shares of distinct n-grams.
    """
    figures = {name: values[:, chosen] for name, values in answers.figures.items()}
    for pair in DIVISORS.items():  # an empty response has no perplexity
        if pair[0] in figures:
            empty = figures[pair[1]].sum(axis=1, keepdims=True) == 0
            figures |= {name: np.where(empty, np.nan, figures[name]) for name in pair}
    spread = [name for name in ("toxicity", "score") if name in figures]
    figures |= {f"{name}_squared": figures[name] ** 2 for name in spread}
    columns = {name: values.mean(axis=1) for name, values in figures.items()}
    for toxic in ("toxic", "second_toxic"):
        if f"{toxic}ity" in figures:
            largest = figures[f"{toxic}ity"].max(axis=1)
            columns[f"max_{toxic}ity"] = largest
            columns[f"is_{toxic}"] = (largest >= TOXIC_FROM).astype(float)
    texts = [[row[place] for place in np.flatnonzero(chosen)] for row in answers.texts]
    for size in NGRAM_SIZES:
        columns[f"distinct{size}"] = np.array([distinct(row, size) for row in texts])
    return columns


def _summarize(
    comparison: Comparison, chosen: NDArray[np.bool_], seed: int, intervals: bool
) -> dict[str, Any]:
    before, after = _columns(comparison.before, chosen), _columns(comparison.after, chosen)
    names, prompts = list(after), len(comparison.prompts)
    unmeasured = np.full(prompts, np.nan)
    data = [np.stack([side.get(name, unmeasured) for name in names]) for side in (before, after)]
    figures = {name: figure for name, figure in FIGURES.items() if figure.column in names}

    def statistic(*sides: Array, axis: int = -1) -> Array:
        means = [dict(zip(names, np.nanmean(side, axis=axis), strict=True)) for side in sides]
        return np.stack([_estimates(figure, *means) for figure in figures.values()])

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # those about means of nothing and undefined resamples
        values = statistic(*data)
        low = high = np.full_like(values, np.nan)
        if intervals and prompts > 1:
            low, high = _interval(data, statistic, seed)
    summary: dict[str, Any] = {}
    for (name, figure), *numbers in zip(figures.items(), values, low, high, strict=True):
        estimates = [as_estimate(*each) for each in zip(*numbers, strict=True)]
        entry = dict(zip(ESTIMATES, estimates, strict=True))
        if entry["after"] is not None:
            old, new = before.get(figure.column, unmeasured), after[figure.column]
            summary[name] = {
                "title": figure.title,
                "n": int((~np.isnan(new)).sum()),
                "changed": int((abs(new - old) >= NOTICEABLE).sum()),
                "better": figure.better,
                **entry,
            }
    return summary


def _estimates(figure: Figure, before: Means, after: Means) -> Array:
    """The four ``ESTIMATES`` of a figure."""
    old, new = (figure.value(means, figure.column) for means in (before, after))
    sign = {"higher": 1.0, "lower": -1.0, None: np.nan}[figure.better if figure.has_zero else None]
    return np.stack([old, new, new - old, sign * (new - old) / np.abs(old)])


def _interval(data: list[Array], statistic: Callable[..., Array], seed: int) -> tuple[Array, Array]:
    """Percentiles over resamples; NaN if over 1 in 20 don't define the figure, or one is infinite.

    A rare event may be absent from a resample before training. Relative to none, no change is 0
    and any other infinite: so in each resample the improvement has the sign of the difference, and
    an interval of the improvement excludes 0 only where that of the difference does.
    """
    resampled = resample(data, statistic, seed)
    *_, difference, improvement = np.moveaxis(resampled, 1, 0)
    improvement[difference == 0] = 0
    low, high = percentiles(resampled)
    low, high = np.where(np.isfinite(high - low), (low, high), np.nan)
    return low, high


def resample(data: list[Array], statistic: Callable[..., Array], seed: int) -> Array:
    """Computes a statistic of ``RESAMPLES`` resamples of prompts, which is its last axis.

    Args:
        data: Arrays whose last axis are the same prompts; they are resampled together.
        statistic: Takes the arrays and ``axis``, which it reduces.
        seed: Seed of the resampling.
    """
    from scipy.stats import bootstrap

    return np.asarray(
        bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=max(1, 10**7 // data[0].size),  # resamples held in memory at once
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    )


def percentiles(resampled: Array, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """Ends of the interval over the last axis; NaN if over 1 in 20 resamples are NaN."""
    tail = (1 - confidence) / 2  # the ends are resamples: between two, signs may differ
    low = np.nanquantile(resampled, tail, axis=-1, method="lower")
    high = np.nanquantile(resampled, 1 - tail, axis=-1, method="higher")
    is_defined = (~np.isnan(resampled)).mean(axis=-1) >= DEFINED_RESAMPLES
    low, high = np.where(is_defined, (low, high), np.nan)
    return low, high


def as_estimate(*numbers: float) -> dict[str, float | None] | None:
    """``value``, ``low`` and ``high`` of an estimate, None where undefined."""
    value, low, high = (float(x) if math.isfinite(x) else None for x in numbers)
    return None if value is None else {"value": value, "low": low, "high": high}

"""Best-of-n: what a policy is worth beside the best of n samples of its reference."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detox_lightning.errors import InputError
from detox_lightning.evaluation.comparison import Comparison
from detox_lightning.evaluation.plan import GREEDY
from detox_lightning.evaluation.statistics import (
    FIGURES,
    Array,
    Figure,
    flat,
    percentiles,
    resample,
    summarize,
)

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # n, as far as there are samples
JUDGES = ("toxicity", "second_toxicity", "score")  # figures by which an effective n is found
Estimate = dict[str, float | None]


def best_weights(scores: Array, n: int) -> Array:
    """Weights of ``m`` samples in the expected best of ``n`` of them, chosen at random.

    With them, the mean of any figure is its mean over all C(m, n) choices, without drawing one. The
    sample of rank i, from 1, is the best of C(i−1, n−1) choices. Samples of one score share their
    weights, as if chance chose among them.

    Args:
        scores: ``[p, m]`` scores of each prompt's samples; NaN is the lowest of all.
        n: How many are chosen.

    Returns:
        ``[p, m]``, each row of sum 1.

    Raises:
        InputError: If ``n`` is below 1 or above ``m``.
    """
    m = scores.shape[1]
    if not 1 <= n <= m:
        raise InputError(f"the best of {n} of {m} samples: give an n from 1 to {m}")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    here, others = scores[:, :, None], scores[:, None, :]
    below, up_to = (others < here).sum(axis=2), (others <= here).sum(axis=2)
    # the probability that all n are among the lowest 0, 1, …, m
    reached = np.array([math.comb(rank, n) / math.comb(m, n) for rank in range(m + 1)])
    return (reached[up_to] - reached[below]) / (up_to - below)


def best_of_kl(n: Array) -> Array:
    """KL divergence of the best of ``n`` samples from one sample, in nats: log n − (n − 1)/n.

    An upper bound, exact if no two samples are alike (https://arxiv.org/abs/2401.01879).
    """
    return np.log(n) - (n - 1) / n


def effective_n(sizes: Array, curve: Array, reached: Array) -> Array:
    """Finds the smallest n whose best-of-n is as good as a policy, interpolated on a log scale.

    Args:
        sizes: ``[k]`` rising values of n, from 1 on.
        curve: ``[k, …]`` a figure of the best of so many, of which less is better.
        reached: ``[…]`` the policy's figure.

    Returns:
        ``[…]``: 1 if the policy is no better than one sample, infinity if it is better than all.
    """
    is_reached = curve <= reached
    after = np.clip(is_reached.argmax(axis=0), 1, None)
    before = after - 1
    worse, better = (np.take_along_axis(curve, x[None], axis=0)[0] for x in (before, after))
    share = (worse - reached) / (worse - better)
    found = sizes[before] * (sizes[after] / sizes[before]) ** share
    found = np.where(is_reached[0], 1.0, found)
    return np.where(np.isnan(reached), np.nan, np.where(is_reached.any(axis=0), found, np.inf))


def wins(after: Array, before: Array) -> Array:
    """``[p]`` shares of pairs of a prompt's samples in which that after is better; ties half.

    The scores ``[p, m]`` are compared each with each; NaN is the lowest of all.
    """
    one, other = (np.where(np.isnan(x), -np.inf, x) for x in (after, before))
    one, other = one[:, :, None], other[:, None, :]
    return ((one > other) + (one == other) / 2).mean(axis=(1, 2))


class _Layout(NamedTuple):
    """What the rows of a table of figures are, which has a column for each prompt.

    Attributes:
        sizes: ``[k]`` values of n. For each come the measurements of the best of n before training.
        columns: Names of these measurements.
        figures: The figures that are computed from them.
        judges: Names of the measurements after training that come next. Then come its KL, and the
            shares of pairs that it wins.
    """

    sizes: Array
    columns: list[str]
    figures: dict[str, Figure]
    judges: list[str]

    def estimates(self, table: Array, axis: int = -1) -> Array:
        """Returns each figure for each n, each judge's effective n and KL ratio, the win rate."""
        means = np.nanmean(table, axis=axis)
        size = len(self.sizes) * len(self.columns)
        best = means[:size].reshape(len(self.sizes), len(self.columns), *means.shape[1:])
        columns = dict(zip(self.columns, best.swapaxes(0, 1), strict=True))
        points = {name: x.value(columns, x.column) for name, x in self.figures.items()}
        *reached, kl, win_rate = means[size:]
        worth = []
        for name, value in zip(self.judges, reached, strict=True):
            sign = -1 if FIGURES[name].better == "higher" else 1
            worth.append(effective_n(self.sizes, sign * points[name], sign * value))
        ratios = (kl - points["kl"][0]) / best_of_kl(np.minimum(worth, self.sizes[-1]))
        points["kl"] = (points["kl"].T + best_of_kl(self.sizes)).T
        return np.concatenate([*points.values(), worth, ratios, [win_rate]])


def against_best_of(
    comparison: Comparison, seed: int, intervals: bool = True
) -> dict[str, Any] | None:
    """Compares a policy with the best of n samples of its reference, chosen by the reward.

    Estimates are ``value``, ``low`` and ``high``, as those of :func:`summarize`:

    - ``points``: for each ``n`` that the samples allow, its figures by their names in ``FIGURES``.
      ``kl`` is :func:`best_of_kl`, plus what the sampler itself is away from the reference: the
      mean log-ratio of the chosen samples, 0 if every token can be sampled.
    - ``effective_n``: by judge, the n that is as good as the policy; see :func:`effective_n`. None:
      it is more than the largest.
    - ``kl_ratio``: by judge, the policy's KL above that of the sampler on the reference, divided by
      :func:`best_of_kl` of the effective n, or if that is None of the largest n.
    - ``win_rate``: the mean of :func:`wins`.

    Returns:
        These, by the judges whose figures are finite; None if there is no such judge, or if fewer
        than two samples of each prompt were drawn.
    """
    is_sample = np.array([decoding != GREEDY for decoding in comparison.decodings])
    if is_sample.sum() < 2:
        return None
    with np.errstate(invalid="ignore"):
        layout, table = _tabulate(comparison, is_sample)
    if not layout.judges:
        return None
    sizes, figures, judges = layout.sizes, layout.figures, layout.judges
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # those about means of nothing and undefined resamples
        values = layout.estimates(table)
        low = high = np.full_like(values, np.nan)
        if intervals and len(comparison.prompts) > 1:
            low, high = percentiles(resample([table], layout.estimates, seed))
    rows = [_as_dict(*ends) for ends in zip(values, low, high, strict=True)]
    k, first, last = len(sizes), len(sizes) * len(figures), len(rows) - 1
    by_name = {name: rows[k * place : k * (place + 1)] for place, name in enumerate(figures)}
    return {
        "points": [
            {"n": int(n), **{name: by_name[name][place] for name in figures}}
            for place, n in enumerate(sizes)
        ],
        "effective_n": dict(zip(judges, rows[first:last], strict=False)),
        "kl_ratio": dict(zip(judges, rows[first + len(judges) : last], strict=True)),
        "win_rate": rows[last],
    }


def to_log(comparison: Comparison, seed: int) -> dict[str, float]:
    """Returns a test's figures without intervals, under their names for logging.

    They are those of :func:`flat`, and as far as they are known ``test/effective_n/JUDGE``,
    ``test/kl_ratio/JUDGE`` and ``test/win_rate`` of :func:`against_best_of`.
    """
    best_of = against_best_of(comparison, seed, intervals=False) or {}
    worth = {"win_rate": best_of["win_rate"]} if best_of else {}
    for name in ("effective_n", "kl_ratio"):
        worth |= {f"{name}/{judge}": x for judge, x in best_of.get(name, {}).items()}
    known = {f"test/{name}": x["value"] for name, x in worth.items() if x["value"] is not None}
    return {**flat(summarize(comparison, seed, intervals=False), "test"), **known}


def _tabulate(comparison: Comparison, is_sample: NDArray[np.bool_]) -> tuple[_Layout, Array]:
    """Returns what is known of each prompt by its samples, and what the rows are."""
    before, after = (
        {name: x[:, is_sample] for name, x in side.figures.items()}
        for side in (comparison.before, comparison.after)
    )
    before.setdefault("kl", np.zeros_like(before["score"]))
    layout = _Layout(
        np.array([n for n in SIZES if n <= is_sample.sum()], float),
        list(before),
        {
            name: figure
            for name, figure in FIGURES.items()
            if figure.column in before and not name.endswith("_std")
        },
        [
            name
            for name in JUDGES
            if name in before and np.isfinite([before[name], after[name]]).all()
        ],
    )
    weights = [best_weights(before["score"], int(n)) for n in layout.sizes]
    # a sample that is never chosen may be NaN or infinite
    rows = [np.where(w > 0, w * x, 0).sum(axis=1) for w in weights for x in before.values()]
    rows += [after[name].mean(axis=1) for name in (*layout.judges, "kl")]
    return layout, np.stack([*rows, wins(after["score"], before["score"])])


def _as_dict(*ends: float) -> Estimate:
    """An estimate for JSON; None where it is infinite or undefined."""
    names = ("value", "low", "high")
    return {k: float(x) if math.isfinite(x) else None for k, x in zip(names, ends, strict=True)}

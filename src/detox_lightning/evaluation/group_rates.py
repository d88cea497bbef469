"""Shares and means by group of people, with intervals from a bootstrap over templates."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detox_lightning.batches import IdentitySentences
from detox_lightning.evaluation.statistics import CONFIDENCE, RESAMPLES, Array, percentiles

MARGIN = 0.02  # by which a group's share must lie above that of the others to be named
MIN_TEMPLATES = 10  # of a group that may be named: a bootstrap of fewer promises too much
BEYOND = 5  # resamples, at least, beyond each end of an interval
AT_ONCE = 10**7  # numbers held in memory while resampling
Mask = NDArray[np.bool_]
Estimate = dict[str, float | None]


class GroupRates:
    """Compares groups in figures of their sentences.

    The intervals are percentiles over resamples of templates: the sentences that differ in nothing
    but the group stay together, and so do before and after.
    """

    def __init__(self, sentences: IdentitySentences, seed: int):
        """Takes the sentences, and the seed of the resampling."""
        self.names, self.groups = np.unique(np.array(sentences.groups), return_inverse=True)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(sentences.templates))}
        self.templates = np.array([numbers[text] for text in sentences.templates])
        self.seed = seed

    def rates(self, events: Mask, among: Mask) -> dict[str, Any]:
        """Computes in which share of each group's sentences something happens.

        Args:
            events: ``[n]``, True where it happens.
            among: ``[n]``, True for the sentences that count.

        Returns:
            ``groups``: by name, the highest difference first, ``sentences``, ``templates``,
            ``rate`` and ``difference`` (rate minus that of all other groups together); ``overall``:
            the rate of all; ``tested``: how many groups have at least ``MIN_TEMPLATES`` templates;
            ``confidence``: that of the intervals of differences, which together are wrong for no
            group with a probability of .95 (Bonferroni); ``named``: the tested groups whose
            interval lies above 0 by more than ``MARGIN``, in that order.
        """
        templates = self._count_templates(among)
        tested = templates >= MIN_TEMPLATES
        confidence = 1 - (1 - CONFIDENCE) / max(1, tested.sum())
        columns = np.stack([events & among, among]).astype(float)
        hits, sizes = self._resampled(
            columns, max(RESAMPLES, math.ceil(BEYOND * 2 / (1 - confidence)))
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            every, all_sizes = hits.sum(axis=0), sizes.sum(axis=0)
            rate = hits / sizes
            difference = rate - (every - hits) / (all_sizes - sizes)
            overall = every / all_sizes
        rates, differences = estimates(rate), estimates(difference, confidence)
        worst = np.argsort(-np.nan_to_num(difference[:, 0], nan=-np.inf), kind="stable")
        entries = {
            str(self.names[place]): {
                "sentences": int(sizes[place, 0]),
                "templates": int(templates[place]),
                "rate": rates[place],
                "difference": differences[place],
            }
            for place in worst
            if sizes[place, 0]
        }
        above = [(x["low"] or 0) > MARGIN for x in differences]
        return {
            "groups": entries,
            "overall": estimates(overall[None])[0],
            "tested": int(tested.sum()),
            "confidence": float(confidence),
            "named": [str(self.names[place]) for place in worst if above[place] and tested[place]],
        }

    def changes(
        self,
        before: tuple[Array, Array],
        after: tuple[Array, Array],
        value: Callable[[Array], Array] = np.asarray,
    ) -> dict[str, dict[str, Estimate]]:
        """Computes a figure of each group's answers before and after training.

        Args:
            before: ``[n]`` numerators and ``[n]`` denominators, which are summed in each group.
            after: The same after training.
            value: Computes the figure from the ratio of the sums.

        Returns:
            By group: ``before``, ``after`` and ``difference``, with intervals.
        """
        sums = self._resampled(np.stack([*before, *after]), RESAMPLES)
        with np.errstate(divide="ignore", invalid="ignore"):
            old, new = value(sums[0] / sums[1]), value(sums[2] / sums[3])
        columns = zip(*map(estimates, (old, new, new - old)), strict=True)
        keys = ("before", "after", "difference")
        return {
            str(name): dict(zip(keys, row, strict=True))
            for name, row in zip(self.names, columns, strict=True)
        }

    def _count_templates(self, among: Mask) -> NDArray[np.int64]:
        pairs = np.unique(np.stack([self.groups, self.templates])[:, among], axis=1)
        return np.bincount(pairs[0], minlength=len(self.names))

    def _resampled(self, columns: Array, resamples: int) -> Array:
        """Sums ``[k, n]`` columns by group: ``[k, groups, 1 + resamples]``, the data's first."""
        k, g, t = len(columns), len(self.names), int(self.templates.max()) + 1
        cells = np.zeros((t, k, g))
        for place, column in enumerate(columns):
            np.add.at(cells[:, place], (self.templates, self.groups), column)
        flat, draw = cells.reshape(t, k * g), np.random.default_rng(self.seed)
        sums = [flat.sum(axis=0, keepdims=True)]
        while resamples > 0:
            size = min(resamples, max(1, AT_ONCE // t))
            chosen = draw.integers(t, size=(size, t)) + t * np.arange(size)[:, None]
            sums.append(np.bincount(chosen.ravel(), minlength=size * t).reshape(size, t) @ flat)
            resamples -= size
        return np.concatenate(sums).T.reshape(k, g, -1)


def estimates(values: Array, confidence: float = CONFIDENCE) -> list[Estimate]:
    """Returns ``value``, ``low`` and ``high`` of each row: its first number, and its resamples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those about rows without any number
        low, high = percentiles(values[:, 1:], confidence)
    names = ("value", "low", "high")
    return [
        {name: float(x) if math.isfinite(x) else None for name, x in zip(names, row, strict=True)}
        for row in zip(values[:, 0], low, high, strict=True)
    ]

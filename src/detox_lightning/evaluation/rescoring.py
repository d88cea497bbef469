"""Texts that were stored with their prompts, measured again by another judge."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detox_lightning.errors import InputError
from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.evaluation.plan import GREEDY, TOXIC_FROM
from detox_lightning.evaluation.statistics import CONFIDENCE, RESAMPLES

SIDES = ("before", "after")
KEPT = ("score", "kl")  # what a comparison with the best of n samples needs besides the toxicity
Row = dict[str, Any]
Number = float | int | None


def stored_comparison(rows: Sequence[Row], toxicity: str) -> Comparison:
    """Puts the rows of a ``comparison.jsonl`` together again, in whatever order they are.

    Args:
        rows: Rows with ``prompt``, ``before`` and ``after``, and where a prompt has several,
            ``decoding``.
        toxicity: Beginning of the names of the columns that are the toxicity, ``NAME_before`` and
            ``NAME_after``. Scores and KL are kept where they are stored.

    Raises:
        InputError: If a prompt lacks a decoding that another one has.
    """
    times: Counter[tuple[str, str]] = Counter()
    cells: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        prompt, decoding = row.get("prompt", ""), row.get("decoding", GREEDY)
        times[prompt, decoding] += 1  # the data may have a prompt several times
        cells.setdefault((prompt, times[prompt, decoding]), {})[decoding] = row
    decodings = sorted({decoding for cell in cells.values() for decoding in cell})
    for (prompt, _), cell in cells.items():
        if missing := [decoding for decoding in decodings if decoding not in cell]:
            raise InputError(
                f"the prompt {prompt[:40]!r} has no row of the decoding {missing[0]!r}, which "
                "others have: give all rows of a comparison, or those of one decoding"
            )
    table = [[cell[decoding] for decoding in decodings] for cell in cells.values()]

    def answers(side: str) -> Answers:
        columns = {"toxicity": f"{toxicity}_{side}", **{name: f"{name}_{side}" for name in KEPT}}
        figures = {
            name: np.array([[row[column] for row in cell] for cell in table], float)
            for name, column in columns.items()
            if all(isinstance(row.get(column, ""), Number) for cell in table for row in cell)
        }
        return Answers([[row[side] for row in cell] for cell in table], figures)

    prompts = [prompt for prompt, _ in cells]
    before, after = map(answers, SIDES)
    return Comparison(prompts, [""] * len(prompts), decodings, before, after)


def mean_toxicity(
    toxicity: NDArray[np.float64], prompts: Sequence[str], seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Returns the means over ``n`` texts, with intervals from a bootstrap over prompts.

    Args:
        toxicity: ``[n]`` probabilities.
        prompts: ``n`` prompts; the texts of the same one stay together.
        seed: Seed of the resampling.

    Returns:
        ``toxicity``, and ``toxic``, the share of texts from .5 on: each ``value``, ``low`` and
        ``high``; the ends are None if there is a single prompt.
    """
    _, places = np.unique(np.array(prompts, dtype=object), return_inverse=True)
    columns = {"toxicity": toxicity, "toxic": (toxicity >= TOXIC_FROM).astype(float)}
    sums = np.stack([np.bincount(places, column) for column in (*columns.values(), toxicity**0)])
    draw, count = np.random.default_rng(seed), sums.shape[1]
    resampled = [sums[:, draw.integers(count, size=count)].sum(axis=1) for _ in range(RESAMPLES)]
    *means, texts = np.array(resampled).T
    tail = (1 - CONFIDENCE) / 2
    found: dict[str, dict[str, float | None]] = {}
    for name, mean in zip(columns, means, strict=True):
        low, high = np.quantile(mean / texts, (tail, 1 - tail)) if count > 1 else (None, None)
        found[name] = {"value": float(columns[name].mean()), "low": low, "high": high}
    return found

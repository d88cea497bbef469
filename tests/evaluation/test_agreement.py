"""Agreement of scores, by hand."""

import math

import numpy as np
import pytest
import torch

from detox_lightning.evaluation.agreement import AGREEMENT_FIGURES, ScoreMeter, agreement

GIVEN = np.array([0.05, 0.15, 0.35, 0.62, 0.68, 1.0])
TRUE = np.array([0.0, 0.2, 0.6, 0.4, 0.8, 1.0])


def test_figures_by_hand() -> None:
    found = agreement(GIVEN, TRUE)
    # The third and the fourth text have changed places: 1 - 6 (1 + 1) / (6 · 35).
    assert found.spearman == pytest.approx(1 - 12 / 210)
    # Of 3 × 3 pairs of a toxic and another text, only .35 against .62 is in the wrong order.
    assert found.auroc == pytest.approx(8 / 9)
    differences = [0.05, -0.05, -0.25, 0.22, -0.12, 0]
    assert found.brier == pytest.approx(sum(x**2 for x in differences) / 6)
    # .62 and .68 share a bin, in which given and true scores are .65 and .6 in the mean.
    assert found.ece == pytest.approx((0.05 + 0.05 + 0.25 + 2 * 0.05 + 0) / 6)
    assert [part.texts for part in found.bins] == [1, 1, 1, 2, 1]
    assert found.bins[3] == pytest.approx((2, 0.65, 0.6))
    assert found.texts == 6


def test_equal_scores_share_their_rank() -> None:
    found = agreement(np.array([0.2, 0.2, 0.2, 0.9]), np.array([0.1, 0.7, 0.1, 0.9]))
    assert found.auroc == pytest.approx(3 / 4)
    # Ranks 2 2 2 4 and 1.5 3 1.5 4.
    assert found.spearman == pytest.approx(3 / math.sqrt(3 * 4.5))


def test_what_can_t_be_told_is_nan() -> None:
    found = agreement(np.array([0.3, 0.3]), np.array([0.1, 0.2]))
    assert math.isnan(found.spearman)
    assert math.isnan(found.auroc)
    assert found.brier == pytest.approx(0.025)


def test_a_meter_means_over_labels_whatever_the_batches() -> None:
    given = torch.tensor(np.stack([GIVEN, TRUE], axis=1), dtype=torch.float32)
    true = torch.tensor(np.stack([TRUE, TRUE], axis=1), dtype=torch.float32)
    meter = ScoreMeter(["toxicity", "insult"])
    for part in (slice(0, 4), slice(4, 6)):
        meter.update(given[part], true[part])
    figures = meter.compute()
    assert tuple(figures) == AGREEMENT_FIGURES
    assert figures["spearman"] == pytest.approx((1 - 12 / 210 + 1) / 2)
    assert figures["ece"] == pytest.approx(0.45 / 6 / 2)
    assert meter.found["insult"].brier == 0
    assert meter.found["toxicity"].auroc == pytest.approx(8 / 9)
    meter.reset()
    assert meter.found["toxicity"].texts == 6  # a report still wants them

"""How well the scores that a classifier gives agree with those of the data."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from detox_lightning.evaluation.plan import TOXIC_FROM

AGREEMENT_FIGURES = ("spearman", "auroc", "brier", "ece")
BINS = 10  # of equal width, in which given and true scores are compared
Array = NDArray[np.float64]


class Bin(NamedTuple):
    """Texts whose given scores are close to one another.

    Attributes:
        texts: Their number.
        given: Mean of the scores that the classifier gives them.
        true: Mean of the data's scores.
    """

    texts: int
    given: float
    true: float


class Agreement(NamedTuple):
    """The agreement of one kind of score.

    Attributes:
        texts: Number of texts.
        spearman: Correlation of the ranks, from -1 to 1; NaN if one side is constant.
        auroc: Probability that a text whose true score is .5 or more gets a higher score than one
            below; NaN if all are on one side.
        brier: Mean squared difference.
        ece: Expected calibration error: the mean over texts of the difference between the mean
            given and the mean true score in a text's bin (https://arxiv.org/abs/1706.04599).
        bins: The bins that have texts, from low to high.
    """

    texts: int
    spearman: float
    auroc: float
    brier: float
    ece: float
    bins: list[Bin]


def agreement(given: Array, true: Array) -> Agreement:
    """Compares the scores that ``n`` texts got with the data's, both ``[n]`` from 0 to 1."""
    from scipy.stats import rankdata

    ranks, is_toxic = rankdata(given), true >= TOXIC_FROM
    toxic, others = int(is_toxic.sum()), int((~is_toxic).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        spearman = np.corrcoef(ranks, rankdata(true))[0, 1]
        auroc = (np.float64(ranks[is_toxic].sum()) / toxic - (toxic + 1) / 2) / others
    places = np.minimum((given * BINS).astype(int), BINS - 1)
    members = [places == place for place in np.unique(places)]
    bins = [Bin(int(x.sum()), float(given[x].mean()), float(true[x].mean())) for x in members]
    return Agreement(
        len(given),
        float(spearman),
        float(auroc) if toxic and others else float("nan"),
        float(((given - true) ** 2).mean()),
        sum(each.texts * abs(each.given - each.true) for each in bins) / len(given),
        bins,
    )


class ScoreMeter(Metric):
    """Agreement of given and true scores over all texts on all ranks.

    Attributes:
        found: By label, the agreement that was computed last; empty before.
    """

    full_state_update = False
    given: list[Tensor]
    true: list[Tensor]

    def __init__(self, labels: list[str]) -> None:
        super().__init__()
        self.labels = labels
        self.found: dict[str, Agreement] = {}
        self.add_state("given", [], "cat")
        self.add_state("true", [], "cat")

    def update(self, given: Tensor, true: Tensor) -> None:
        """Adds the scores of ``b`` texts, each ``[b, labels]``."""
        self.given.append(given)
        self.true.append(true)

    def compute(self) -> dict[str, Tensor]:
        """Returns each of ``AGREEMENT_FIGURES``, a mean over the labels that define it."""
        given, true = (
            dim_zero_cat(side).double().cpu().numpy().T for side in (self.given, self.true)
        )
        self.found = dict(zip(self.labels, map(agreement, given, true), strict=True))
        means = {}
        for name in AGREEMENT_FIGURES:
            values = np.array([getattr(found, name) for found in self.found.values()])
            known = values[~np.isnan(values)]
            means[name] = float(known.mean()) if known.size else math.nan
        return {name: torch.tensor(mean, device=self.device) for name, mean in means.items()}

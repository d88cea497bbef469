"""ROUGE of many texts."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from detox_lightning.rewards.rouge_reward import KINDS, rouge


class Rouge(Metric):
    """Mean ROUGE F-measures over all texts of all processes.

    See :func:`~detox_lightning.rewards.rouge_reward.rouge`. Nothing is downloaded.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, **options: Any):
        """Starts with no texts.

        Args:
            options: For ``torchmetrics.Metric``.
        """
        super().__init__(**options)
        sums = torch.zeros(len(KINDS), dtype=torch.float32)
        self.sums: Tensor
        self.count: Tensor
        self.add_state("sums", sums, dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[str]) -> None:
        """Adds texts.

        Args:
            predictions: The ``b`` texts to judge.
            references: The ``b`` texts they are compared with, one each; where one is blank,
                there is nothing to compare, and the pair is left out.
        """
        pairs = zip(predictions, references, strict=True)
        known = [(text, reference) for text, reference in pairs if reference.strip()]
        if known:
            texts, others = map(list, zip(*known, strict=True))
            self.sums += rouge(texts, others).sum(dim=0).to(self.sums)
            self.count += len(known)

    def compute(self) -> dict[str, Tensor]:
        """The means, each in [0, 1], under the names in ``KINDS``; NaN if nothing was compared."""
        means = self.sums / self.count
        return dict(zip(KINDS, means, strict=True))

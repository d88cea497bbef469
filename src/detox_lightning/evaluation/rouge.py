"""ROUGE (https://aclanthology.org/W04-1013): how many words two texts share, and in what order."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(Metric):
    """Mean ROUGE F-measures over all texts of all processes.

    They are those of the ``rouge_score`` package, with words stemmed (Porter). ``rougeLsum`` takes
    lines for sentences. Nothing is downloaded.
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
        self._scorer: Any = None

    def update(self, predictions: list[str], references: list[str]) -> None:
        """Adds texts.

        Args:
            predictions: The ``b`` texts to judge.
            references: The ``b`` texts they are compared with, one each.
        """
        if self._scorer is None:
            from rouge_score.rouge_scorer import RougeScorer

            self._scorer = RougeScorer(KINDS, use_stemmer=True)
        for prediction, reference in zip(predictions, references, strict=True):
            scores = self._scorer.score(target=reference, prediction=prediction)
            self.sums += self.sums.new_tensor([scores[kind].fmeasure for kind in KINDS])
        self.count += len(predictions)

    def compute(self) -> dict[str, Tensor]:
        """The means, each in [0, 1], under the names in ``KINDS``; 0 where there were no texts."""
        means = self.sums / self.count.clamp(min=1)
        return dict(zip(KINDS, means, strict=True))

"""ROUGE (https://aclanthology.org/W04-1013): how many words two texts share, and in what order."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(predictions: list[str], references: list[str]) -> Tensor:
    """ROUGE F-measures of the ``rouge_score`` package, words stemmed (Porter).

    Args:
        predictions: The ``b`` texts to judge.
        references: The ``b`` texts they are compared with, one each.

    Returns:
        ``[b, 4]`` in the order of ``KINDS``; ``rougeLsum`` takes lines for sentences.
    """
    scorer = _scorer()
    pairs = zip(predictions, references, strict=True)
    scores = [
        scorer.score(target=reference, prediction=prediction) for prediction, reference in pairs
    ]
    return torch.tensor([[row[kind].fmeasure for kind in KINDS] for row in scores]).view(
        -1, len(KINDS)
    )


class Words:
    """Splits texts as ``rouge_score`` does, and remembers the stems of words, which take long."""

    def __init__(self) -> None:
        """Knows no words yet."""
        from nltk.stem.porter import PorterStemmer

        self.stem = cache(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, stemmed."""
        from rouge_score.tokenize import tokenize

        words: list[str] = tokenize(text, self)
        return words


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(KINDS, tokenizer=Words())


class Rouge(Metric):
    """Mean ROUGE F-measures over all texts of all processes.

    See :func:`rouge`. Nothing is downloaded.
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
            references: The ``b`` texts they are compared with, one each.
        """
        self.sums += rouge(predictions, references).sum(dim=0).to(self.sums)
        self.count += len(predictions)

    def compute(self) -> dict[str, Tensor]:
        """The means, each in [0, 1], under the names in ``KINDS``; 0 where there were no texts."""
        means = self.sums / self.count.clamp(min=1)
        return dict(zip(KINDS, means, strict=True))

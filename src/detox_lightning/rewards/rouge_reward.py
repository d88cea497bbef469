"""ROUGE (https://aclanthology.org/W04-1013): which words two texts share, and in what order."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from detox_lightning.lazy_imports import deferred
from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.words import words

Kind = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
ROUGE_KINDS: tuple[Kind, ...] = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(
    predictions: list[str],
    references: Sequence[str | list[str]],
    kinds: Sequence[Kind] = ROUGE_KINDS,
) -> Tensor:
    """Computes ROUGE F-measures of the ``rouge_score`` package, with Porter's English stemmer.

    For English they equal the package's own, whose words have the letters a to z only. Here
    :func:`~detox_lightning.rewards.words.words` finds the words of all languages. Of several
    references of one text, the best counts, for each kind by itself.

    Returns:
        ``[b, k]`` in the order of ``kinds``; each line is a sentence for ``rougeLsum``.
    """
    scorer = _scorer(tuple(kinds))
    pairs = zip(predictions, references, strict=True)
    scores = [
        scorer.score_multi([target] if isinstance(target, str) else target, prediction)
        for prediction, target in pairs
    ]
    rows = [[row[kind].fmeasure for kind in kinds] for row in scores]
    return torch.tensor(rows, dtype=torch.float32).view(-1, len(kinds))


class StemmingTokenizer:
    """Splits texts for ``rouge_score``; it caches stems, which are slow to compute."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = cache(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        """Returns the words of a text; those of more than three letters, a to z, are stemmed."""
        return [
            self.stem(word) if len(word) > 3 and word.isascii() else word for word in words(text)
        ]


_tokenizer = cache(StemmingTokenizer)


@cache
def _scorer(kinds: tuple[Kind, ...]) -> Any:
    with deferred():  # its import of nltk leads to scipy's statistics
        from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(kinds, tokenizer=_tokenizer())


class RougeReward(Reward):
    """ROUGE of a response and the reference, from 0 to 1; see :func:`rouge`.

    Its name is its kind. It is 0 without a reference; the data modules leave such rows out.

    Args:
        kind: ``rouge1`` counts words, ``rouge2`` pairs of words, ``rougeL`` the longest common
            subsequence, ``rougeLsum`` that of each line.
    """

    needs_references = True

    def __init__(self, kind: Kind = "rougeL"):
        super().__init__()
        self.name = self.kind = kind

    def describe(self) -> str:
        """Returns one line for reports."""
        return f"{self.kind} with the reference"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        return rouge(responses, references, [self.kind])[:, 0]

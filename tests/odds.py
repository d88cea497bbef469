"""A classifier whose opinion can be worked out by hand, six texts, and what is to be said of them.

Each word multiplies the odds of ``hate``.
"""

import math
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from detox_lightning.evaluation.toxicity import ToxicityMetric
from detox_lightning.models.classifier import TextClassifier

ODDS = {"fool": 3.0, "kind": 1 / 9}
SIX = ["Ann is kind", "Bob is a fool", "", "kind fool", "fool fool", "Bob is a fool"]
#  odds    1/9           3             1     1/3           9             3
TOXICITY = [0.1, 0.75, 0.5, 0.25, 0.9, 0.75]
MEAN = 3.25 / 6
MAXIMUM = 0.9
RATIO = 4 / 6  # from 0.5 on
LABELS = ("nothate", "hate")


def load(self: TextClassifier) -> None:
    self.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))


def classify(self: TextClassifier, pairs: list[tuple[str, str]]) -> Tensor:
    odds = [math.prod(ODDS.get(word, 1.0) for word in text.split()) for _, text in pairs]
    return torch.tensor([[0.0, math.log(o)] for o in odds]).view(-1, 2)


def use_odds(patch: Any) -> None:
    """Has every classifier multiply odds; ``patch`` is pytest's."""
    patch.setattr(TextClassifier, "load", load)
    patch.setattr(TextClassifier, "_classify", classify)


def judge_shares(rank: int, shares: list[list[list[str]]], folder: str) -> None:
    """One of several processes: judges its share of texts, and notes what it has of all."""
    torch.set_num_threads(1)
    use_odds(SimpleNamespace(setattr=setattr))
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", timedelta(seconds=60), rank=rank, world_size=2
    )
    came = []
    for share in shares:
        metric = ToxicityMetric("odds")
        for text in share[rank]:
            metric.update([text])
        came.append({name: float(value) for name, value in metric.compute().items()})
        came.append(float(metric.count))  # its own again
    torch.save(came, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()

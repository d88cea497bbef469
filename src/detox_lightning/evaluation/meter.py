"""Sums up figures of responses."""

import torch
from torch import Tensor
from torchmetrics import Metric

from detox_lightning.rewards.rouge import KINDS

NAMES = ("score", "toxicity", "toxicity_probability", "kl", "length", "eos_rate", *KINDS)
TOXIC = 0.5


class ResponseMeter(Metric):
    """Means over all responses on all ranks: score, toxicity, KL, length, EOS rate, ROUGE."""

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        """Starts with nothing seen."""
        super().__init__()
        self.add_state("sums", torch.zeros(len(NAMES), dtype=torch.float32), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float32), "sum")

    def update(self, figures: dict[str, Tensor]) -> None:
        """Takes in ``b`` responses.

        Args:
            figures: What is known of them, each ``[b]``; see :meth:`Evaluator.examine`.
        """
        named = {
            **figures,
            "toxicity_probability": figures["toxicity"] >= TOXIC,
            "eos_rate": figures["has_eos"],
        }
        self.sums += torch.stack([named[name].float().sum() for name in NAMES]).to(self.sums)
        self.count += len(figures["score"])

    def compute(self) -> dict[str, Tensor]:
        """The means by name: KL in nats per response, lengths in tokens."""
        return dict(zip(NAMES, self.sums / self.count, strict=True))

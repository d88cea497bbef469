"""Sums up figures of responses."""

import torch
from torch import Tensor
from torchmetrics import Metric

from detox_lightning.rewards.rouge_reward import KINDS

NAMES = ("score", "toxicity", "toxicity_probability", "kl", "length", "eos_rate", *KINDS)
TOXIC = 0.5


class ResponseMeter(Metric):
    """Means over all responses on all ranks: score, toxicity, KL, length, EOS rate, ROUGE."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        """Starts with nothing seen."""
        super().__init__()
        self.add_state("sums", torch.zeros(len(NAMES), dtype=torch.float32), "sum")
        self.add_state("counts", torch.zeros(len(NAMES), dtype=torch.float32), "sum")

    def update(self, figures: dict[str, Tensor]) -> None:
        """Takes in ``b`` responses.

        Args:
            figures: What is known of them, each ``[b]``; see :meth:`Evaluator.evaluate`. ROUGE is
                NaN where there is nothing to compare with.
        """
        named = {
            **figures,
            "toxicity_probability": figures["toxicity"] >= TOXIC,
            "eos_rate": figures["has_eos"],
        }
        columns = torch.stack([named[name].float().to(self.sums) for name in NAMES])
        may_lack = torch.tensor([[name in KINDS] for name in NAMES], device=columns.device)
        known = ~(columns.isnan() & may_lack)
        self.sums += torch.where(known, columns, 0).sum(dim=1)
        self.counts += known.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """The means by name, without what is known of no response.

        KL in nats per response, lengths in tokens.
        """
        means = self.sums / self.counts
        return {name: means[row] for row, name in enumerate(NAMES) if self.counts[row]}

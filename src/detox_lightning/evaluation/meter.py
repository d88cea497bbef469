"""Sums up verdicts on responses."""

import torch
from torch import Tensor
from torchmetrics import Metric

from detox_lightning.evaluation.judge import Verdicts
from detox_lightning.evaluation.rouge import Rouge


class ResponseMeter(Metric):
    """Means over all responses on all ranks: score, toxicity, KL, length, EOS rate, ROUGE."""

    full_state_update = False
    names = ("score", "toxicity", "toxicity_probability", "kl", "length", "eos_rate")
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        """Starts with nothing seen."""
        super().__init__()
        self.rouge = Rouge()
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float32), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float32), "sum")

    def update(self, verdicts: Verdicts, texts: list[str], references: list[str]) -> None:
        """Takes in ``b`` responses.

        Args:
            verdicts: Of the responses.
            texts: The responses.
            references: Summaries written by people.
        """
        columns = [
            verdicts.score,
            verdicts.toxicity,
            verdicts.toxicity >= 0.5,
            verdicts.kl,
            verdicts.length,
            verdicts.has_eos,
        ]
        self.sums += torch.stack([column.float().sum() for column in columns])
        self.count += len(texts)
        self.rouge.update(texts, references)

    def compute(self) -> dict[str, Tensor]:
        """The means by name: KL in nats per response, lengths in tokens."""
        means = self.sums / self.count
        return {**dict(zip(self.names, means, strict=True)), **self.rouge.compute()}

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.rouge.reset()

"""Running means of responses over batches and ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from detox_lightning.evaluation.plan import TOXIC_FROM
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, rouge

VALIDATION_FIGURES = (
    *("score", "toxicity", "toxicity_probability", "second_toxicity", "toxicity_gap"),
    *("similarity_before", "similarity_prompt", "kl", "length", "eos_rate"),
    *ROUGE_KINDS,
)


class ResponseMeter(Metric):
    """Means over all responses on all ranks: score, toxicity, similarity, KL, length, ROUGE."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("sums", "counts"):
            zeros = torch.zeros(len(VALIDATION_FIGURES), dtype=torch.float32)
            self.add_state(state, zeros, "sum")

    def update(self, figures: dict[str, Tensor]) -> None:
        """Adds the figures of ``b`` responses, each ``[b]``; see :meth:`Evaluator.evaluate`.

        ROUGE is NaN where there is no reference; any other NaN makes its mean NaN. Toxicity and
        similarity may be missing.
        """
        named = {**figures, "eos_rate": figures["has_eos"]}
        if "toxicity" in figures:
            named["toxicity_probability"] = figures["toxicity"] >= TOXIC_FROM
            if "second_toxicity" in figures:
                named["toxicity_gap"] = figures["second_toxicity"] - figures["toxicity"]
        nothing = torch.full_like(named["score"], torch.nan)
        columns = torch.stack(
            [named.get(name, nothing).float().to(self.sums) for name in VALIDATION_FIGURES]
        )
        lacks = [name in ROUGE_KINDS or name not in named for name in VALIDATION_FIGURES]
        may_lack = torch.tensor(lacks)[:, None]
        known = ~(columns.isnan() & may_lack.to(columns.device))
        self.sums += torch.where(known, columns, 0).sum(dim=1)
        self.counts += known.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Returns the means by name, without those of no response.

        KL is in nats per response, lengths are in tokens.
        """
        means = self.sums / self.counts
        return {name: means[row] for row, name in enumerate(VALIDATION_FIGURES) if self.counts[row]}


class Rouge(Metric):
    """Mean ROUGE F-measures of all texts on all ranks; see :func:`rouge`."""

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(ROUGE_KINDS), dtype=torch.float32), "sum")
        self.add_state("count", torch.tensor(0), "sum")

    def update(self, predictions: list[str], references: Sequence[str | list[str]]) -> None:
        """Adds ``b`` texts, each with one reference or several; those without are left out."""
        pairs = zip(predictions, references, strict=True)
        known = [(text, reference) for text, reference in pairs if "".join(reference).strip()]
        if known:
            self.sums += rouge(*map(list, zip(*known, strict=True))).sum(dim=0).to(self.sums)
            self.count += len(known)

    def compute(self) -> dict[str, Tensor]:
        """Returns the means, each in [0, 1], by kind of ROUGE; empty if nothing was compared."""
        return dict(zip(ROUGE_KINDS, self.sums / self.count, strict=True)) if self.count else {}

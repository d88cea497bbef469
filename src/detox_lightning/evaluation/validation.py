"""A validation: mean figures, how varied the responses are, and each response's own figures."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from detox_lightning.batches import PromptBatch
from detox_lightning.evaluation.comparison import gather_lists
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.meter import VALIDATION_FIGURES, ResponseMeter
from detox_lightning.evaluation.statistics import NGRAM_SIZES, distinct

SIMILARITIES = ("similarity_before", "similarity_prompt")
DISTINCT = tuple(f"distinct{size}" for size in NGRAM_SIZES)


class Validation(nn.Module):
    """Collects what is measured of one sampled response to each prompt.

    Attributes:
        held_out: The figure of a judge that is no part of the reward; None: there is none.
        figures: What tells whether a reward is gamed, as far as it is measured: score, toxicity,
            that of the held-out judge, similarity to the prompt. Each is ``[n]`` float64, of the
            newest validation's ``n`` prompts on all ranks, in the order of the data.
    """

    judge: Judge

    def __init__(self, judge: Judge):
        super().__init__()
        self.__dict__["judge"] = judge  # past nn.Module: it is the evaluator's submodule
        self.meter = ResponseMeter()
        self.held_out = "second_toxicity" if judge.has_held_out else None
        self.figures: dict[str, Tensor] = {}
        self.parts: list[tuple[Tensor, list[str], dict[str, Tensor]]] = []
        self.constant: dict[tuple[str, ...], Tensor] = {}

    @property
    def names(self) -> list[str]:
        """The figures that a validation may find, without ``val/``."""
        judge = self.judge
        needed = {
            "toxicity": judge.toxicity,
            "toxicity_probability": judge.toxicity,
            "second_toxicity": judge.second_toxicity,
            "toxicity_gap": judge.toxicity and judge.second_toxicity,
            **dict.fromkeys(SIMILARITIES, judge.encoder),
        }
        names = [*VALIDATION_FIGURES, *DISTINCT]
        return [name for name in names if needed.get(name, judge) is not None]

    def similarity(
        self, batch: PromptBatch, texts: list[str], before: Callable[[], list[str]]
    ) -> dict[str, Tensor]:
        """Compares ``b`` responses with their prompts, and with what the reference answers.

        Args:
            batch: The prompts.
            texts: The responses.
            before: Samples the reference's responses, with the same noise. It is asked once for
                each batch, as they are the same in all validations.

        Returns:
            Cosines, each ``[b]``; nothing if similarity isn't measured.
        """
        if (encoder := self.judge.encoder) is None:
            return {}
        key = (*map(str, batch.places.tolist()), *batch.prompts)
        if key not in self.constant:
            self.constant[key] = encoder([*before(), *batch.prompts])
        ours, others = encoder(texts), self.constant[key].chunk(2)
        cosines = [(ours * theirs).sum(dim=1).cpu() for theirs in others]
        return dict(zip(SIMILARITIES, cosines, strict=True))

    def update(self, batch: PromptBatch, texts: list[str], figures: dict[str, Tensor]) -> None:
        """Adds ``b`` responses with their figures, each ``[b]``."""
        self.meter.update(figures)
        names = "score", "toxicity", self.held_out, "similarity_prompt"
        compared = {name: figures[name].cpu() for name in names if name in figures}
        self.parts.append((batch.places, texts, compared))

    def finish(self) -> dict[str, Tensor]:
        """Sets :attr:`figures`; returns ``val/NAME`` of all batches and ranks, and starts over."""
        rows = [
            (place, text, dict(zip(figures, values, strict=True)))
            for places, texts, figures in self.parts
            for place, text, *values in zip(
                places.tolist(), texts, *(x.tolist() for x in figures.values()), strict=True
            )
        ]
        found = self.meter.compute()
        self.meter.reset()
        self.parts.clear()
        # data that doesn't divide by the number of ranks may give a prompt to two of them
        ordered = dict(sorted({place: row for place, *row in gather_lists(rows)}.items())).values()
        texts, measured = [text for text, _ in ordered], [figures for _, figures in ordered]
        self.figures = {
            name: torch.tensor([figures[name] for figures in measured], dtype=torch.float64)
            for name in (measured[0] if measured else ())
        }
        for name, size in zip(DISTINCT, NGRAM_SIZES, strict=True):
            if not math.isnan(share := distinct(texts, size)):
                found[name] = torch.tensor(share, device=self.meter.device)
        return {f"val/{name}": value for name, value in found.items()}

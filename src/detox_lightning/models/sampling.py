"""How responses are sampled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor

from detox_lightning.algorithm.logprobs import sampler_logits
from detox_lightning.errors import InputError
from detox_lightning.models.noise import Draws, PromptNoise

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Picks tokens: from ``[r, V]`` logits, the ``[r]`` rows they are of and the step, ``[r]``."""


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    With ``top_k`` 0 and ``top_p`` 1 the sampler's distribution is the policy; temperature and
    minimum length are applied wherever a log-probability is taken. Other values of ``top_k`` and
    ``top_p`` make the ratio of new to old probability approximate.

    Attributes:
        max_new_tokens: Longest response, in tokens; ``[low, high]`` draws each rollout's limit from
            that range, both ends included.
        min_new_tokens: EOS is impossible before this many tokens.
        temperature: Divides the logits.
        top_k: Sample among the k likeliest tokens only; 0 for all.
        top_p: Sample among the likeliest tokens that make up this probability only; 1 for all.
    """

    max_new_tokens: PositiveInt | tuple[PositiveInt, PositiveInt] = 100
    min_new_tokens: NonNegativeInt = 0
    temperature: PositiveFloat = 1.0
    top_k: NonNegativeInt = 0
    top_p: ClosedUnitInterval = 1.0

    def __post_init__(self) -> None:
        low, high = self.limits
        if low > high:
            raise InputError(
                f"sampling.max_new_tokens={[low, high]}: the low end is above the high"
            )
        if self.min_new_tokens > low:
            raise InputError(
                f"sampling.min_new_tokens={self.min_new_tokens} is above max_new_tokens={low}"
            )
        if self.top_p == 0:
            raise InputError("sampling.top_p=0 leaves no token to sample; 1 is all of them")

    @property
    def limits(self) -> tuple[int, int]:
        """Both ends of the range that a rollout's length limit is drawn from."""
        if isinstance(self.max_new_tokens, int):
            return self.max_new_tokens, self.max_new_tokens
        low, high = self.max_new_tokens
        return low, high

    @property
    def is_exact(self) -> bool:
        """Whether log-probabilities can be those of the sampler."""
        return self.top_k == 0 and self.top_p == 1

    def draw_limit(self, seed: int) -> int:
        """One rollout's length limit, a function of ``seed``."""
        low, high = self.limits
        generator = torch.Generator().manual_seed(seed)
        return int(torch.randint(low, high + 1, (), generator=generator))

    def choose(
        self,
        eos_token_id: int,
        noise: Draws | PromptNoise | None = None,
        top_p: float | None = None,
    ) -> Choose:
        """How the next tokens are picked.

        Args:
            eos_token_id: The token that ends a response.
            noise: Draws them; None: with torch's own random numbers.
            top_p: Instead of this sampling's; None for that.
        """
        warpers = self._warpers(self.top_p if top_p is None else top_p)
        noise = noise or Draws()

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            scores = sampler_logits(
                logits[:, None], self.temperature, self.min_new_tokens - step, eos_token_id
            )[:, 0]
            for warper in warpers:
                scores = warper(None, scores)
            return noise(scores, rows, step)

        return choose

    def _warpers(self, top_p: float) -> list[Any]:
        from transformers.generation import logits_process

        warpers: list[Any] = []
        if self.top_k:
            warpers.append(logits_process.TopKLogitsWarper(self.top_k))
        if top_p < 1:
            warpers.append(logits_process.TopPLogitsWarper(float(top_p)))
        return warpers


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """Picks the likeliest token of each row: see :data:`Choose`."""
    return logits.argmax(dim=-1)

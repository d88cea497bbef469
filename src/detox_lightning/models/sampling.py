"""How responses are sampled."""

from collections.abc import Callable
from dataclasses import dataclass

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

FEW = 512  # tokens among which a CPU looks for the likeliest first

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
        top_p = self.top_p if top_p is None else top_p
        noise = noise or Draws()

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            scores = sampler_logits(
                logits[:, None], self.temperature, self.min_new_tokens - step, eos_token_id
            )[:, 0]
            if not self.top_k and top_p == 1:
                return noise(scores, rows, step)
            scores, tokens = truncated(scores, self.top_k, float(top_p))
            return tokens.gather(1, noise(scores, rows, step, tokens)[:, None])[:, 0]

        return choose


def truncated(scores: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of each row, which alone can be drawn.

    The likeliest few hundred nearly always hold ``top_p`` of the probability, and are found in a
    fraction of the time that sorting a large vocabulary takes.

    Args:
        scores: ``[r, V]``.
        top_k: So many at most; 0 for all.
        top_p: So many as make up this probability, at least one.

    Returns:
        Scores ``[r, n]`` in descending order, -inf where a token can't be drawn, and the tokens
        ``[r, n]``.
    """
    few = top_k or (FEW if scores.device.type == "cpu" else scores.shape[1])
    likeliest = scores.topk(min(few, scores.shape[1]), dim=1)
    if top_p == 1:
        return likeliest.values, likeliest.indices
    total = likeliest.values if top_k else scores
    reached = (likeliest.values - total.logsumexp(dim=1, keepdim=True)).exp().cumsum(dim=1)
    if not top_k and few < scores.shape[1] and bool((reached[:, -1] < top_p).any()):
        return truncated(scores, scores.shape[1], top_p)
    before = reached.roll(1, dims=1)
    before[:, 0] = 0
    return likeliest.values.masked_fill(before >= top_p, -torch.inf), likeliest.indices


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """Picks the likeliest token of each row: see :data:`Choose`."""
    return logits.argmax(dim=-1)

"""How a loss is averaged over responses of different lengths: as token weights and a divisor.

A loss is a weighted sum over tokens, divided by a divisor. Both are summed over the micro-batches
of a mini-batch and over all ranks, so the gradient depends neither on how a mini-batch is cut into
micro-batches nor on how it is spread over ranks.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Average = Literal["tokens", "responses", "constant"]


class TokenWeights(NamedTuple):
    """What a loss is averaged with.

    Attributes:
        weights: ``[m, t]`` float32 weight of each token; 0 at padding.
        divisor: ``[]`` int64, what the weighted sum is divided by.
    """

    weights: Tensor
    divisor: Tensor


def token_weights(mask: Tensor, average: Average, longest: int) -> TokenWeights:
    """Weighs the tokens of some responses.

    Args:
        mask: ``[m, t]``, True at real tokens.
        average: ``tokens``: every token counts the same (PPO, DAPO). ``responses``: every response
            counts the same, as a mean over its tokens (GRPO). ``constant``: as ``tokens``, but the
            sum is divided by the responses times ``longest`` (Dr. GRPO).
        longest: Tokens of the longest response that may be sampled.
    """
    if average == "tokens":
        return TokenWeights(mask.to(torch.float32), mask.sum())
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    per_token = lengths if average == "responses" else longest
    return TokenWeights(mask / per_token, mask.new_ones(len(mask)).sum())


def weighted_sum(x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Sums ``weights * x`` where ``mask`` is True, whatever stands elsewhere (NaN included)."""
    return (torch.where(mask, x, 0) * weights).sum()

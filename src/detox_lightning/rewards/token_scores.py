"""Scores of tokens, and the scores of responses that they add up to."""

import torch
from torch import Tensor

from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.reward_errors import check_scores, maker, reward_errors

Parts = dict[str, Tensor]


def total_of(reward: Reward, parts: Parts, place: str, shape: list[int]) -> Tensor:
    """Has a reward put its terms together; TrainingError if that fails or hasn't the shape."""
    with reward_errors(reward, place, "total"):
        total = reward.total(dict(parts))
    check_scores(reward.name, total, place, maker(reward, "total"), shape)
    return total


def add_up(
    reward: Reward, parts: Parts, count: int, lengths: list[int], place: str
) -> tuple[Parts, Tensor, Tensor | None]:
    """Adds up the token scores among the terms of a reward, and then the terms.

    Args:
        reward: The reward.
        parts: Terms by name, each ``[b]`` or ``[b, t]``; what is beyond a response's end is
            ignored.
        count: ``b``.
        lengths: Tokens of each response, the longest of which has ``t``; empty without token
            scores.
        place: Where in the run, for messages.

    Returns:
        The terms, ``[b]`` each; their total, ``[b]``; and what each token earned of it, ``[b, t]``,
        or None if no term has token scores. The others' share is not in it.
    """
    summed, tokens = parts, None
    if any(part.ndim == 2 for part in parts.values()):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        spread = {
            name: x.where(mask.to(x.device), 0) if x.ndim == 2 else x.new_zeros(mask.shape)
            for name, x in parts.items()
        }
        tokens = total_of(reward, spread, place, list(mask.shape))
        summed = {n: spread[n].sum(dim=1) if x.ndim == 2 else x for n, x in parts.items()}
    return summed, total_of(reward, summed, place, [count]), tokens

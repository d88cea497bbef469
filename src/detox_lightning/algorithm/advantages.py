"""How much better each token turned out than expected."""

from typing import Protocol

import torch
from jsonargparse.typing import ClosedUnitInterval
from torch import Tensor


class AdvantageEstimator(Protocol):
    """Turns token rewards into advantages and returns."""

    def __call__(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates advantages.

        Args:
            rewards: ``[b, t]``, 0 outside the mask.
            values: ``[b, t]`` value head at rollout.
            mask: ``[b, t]``.

        Returns:
            Advantages, not whitened, and returns, both ``[b, t]``.
        """
        ...


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation, https://arxiv.org/abs/1506.02438, equation 16.

    Args:
        rewards: ``[b, t]``, 0 outside the mask.
        values: ``[b, t]``.
        mask: ``[b, t]``, real tokens consecutive.
        gamma: Discount of a reward one token later.
        gae_lambda: 0 trusts the value head, 1 the rewards.

    Returns:
        Advantages and returns, ``[b, t]``, 0 outside the mask.
    """
    values = torch.where(mask, values, 0)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    advantages = torch.zeros_like(values)
    for position in reversed(range(values.shape[1])):
        delta = rewards[:, position] + gamma * next_value - values[:, position]
        following = torch.where(mask[:, position], delta + gamma * gae_lambda * following, 0)
        advantages[:, position] = following
        next_value = values[:, position]
    return advantages, advantages + values


class GAE:
    """Generalized advantage estimation: learns from a value head, https://arxiv.org/abs/1506.02438."""

    def __init__(self, gamma: ClosedUnitInterval = 1.0, gae_lambda: ClosedUnitInterval = 0.95):
        """Sets the two discounts.

        Args:
            gamma: Discount of a reward one token later.
            gae_lambda: 0 trusts the value head, 1 the rewards.
        """
        self.gamma = gamma
        self.gae_lambda = gae_lambda

    def __call__(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`gae`."""
        return gae(rewards, values, mask, self.gamma, self.gae_lambda)

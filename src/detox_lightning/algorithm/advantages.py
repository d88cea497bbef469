"""Advantages: how much better each token turned out than expected."""

from abc import ABC, abstractmethod

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor

from detox_lightning.algorithm.masks import Reduce, alone
from detox_lightning.errors import InputError


class AdvantageEstimator(ABC):
    """Turns token rewards into advantages and returns.

    Attributes:
        responses_per_prompt: How many responses each prompt gets, in consecutive rows.
        uses_values: Whether there is a value head to learn from.
        whitens: Whether advantages are scaled to mean 0 and variance 1 over all ranks' tokens.
    """

    responses_per_prompt: int = 1
    uses_values: bool = False
    whitens: bool = False

    @abstractmethod
    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Estimates advantages.

        Args:
            rewards: ``[b, t]``, 0 outside the mask.
            values: ``[b, t]`` value head at rollout.
            mask: ``[b, t]``.
            reduce: Sum over ranks.

        Returns:
            Advantages, not whitened, and returns, both ``[b, t]``, 0 outside the mask.
        """


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


def leave_one_out(totals: Tensor, k: int) -> Tensor:
    """Each response's reward less the mean of its prompt's other responses.

    RLOO, https://arxiv.org/abs/2402.14740, equation 8.

    Args:
        totals: ``[b]`` reward of whole responses, ``k`` consecutive rows a prompt.
        k: Responses per prompt, at least 2.

    Returns:
        ``[b]``.
    """
    groups = totals.view(-1, k)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (k - 1)
    return (groups - others).flatten()


def group_relative(totals: Tensor, k: int, scale: bool = True) -> Tensor:
    """Each response's reward, standardized among its prompt's responses.

    GRPO, https://arxiv.org/abs/2402.03300, section 4.1.2.

    Args:
        totals: ``[b]`` reward of whole responses, ``k`` consecutive rows a prompt.
        k: Responses per prompt, at least 2.
        scale: Divide by the standard deviation (with Bessel's correction).

    Returns:
        ``[b]``.
    """
    groups = totals.view(-1, k)
    centred = groups - groups.mean(dim=1, keepdim=True)
    if scale:
        centred = centred / (groups.std(dim=1, keepdim=True) + 1e-4)
    return centred.flatten()


def batch_baseline(totals: Tensor, reduce: Reduce = alone) -> Tensor:
    """Each response's reward less the mean over all ranks' responses.

    REINFORCE with a baseline, https://doi.org/10.1007/BF00992696.

    Args:
        totals: ``[b]`` reward of whole responses.
        reduce: Sum over ranks.

    Returns:
        ``[b]``.
    """
    total, count = reduce(torch.stack([totals.sum(), torch.ones_like(totals).sum()]))
    return totals - total / count


def _spread(advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gives responses' advantages ``[b]`` to all their tokens, ``[b, t]``; the returns are 0."""
    spread_out = torch.where(mask, advantages[:, None], 0)
    return spread_out, torch.zeros_like(spread_out)


class GAE(AdvantageEstimator):
    """Generalized advantage estimation: one response a prompt, and a value head to learn from.

    Args:
        gamma: Discount of a reward one token later.
        gae_lambda: 0 trusts the value head, 1 the rewards.
    """

    uses_values = True
    whitens = True

    def __init__(self, gamma: ClosedUnitInterval = 1.0, gae_lambda: ClosedUnitInterval = 0.95):
        self.gamma = gamma
        self.gae_lambda = gae_lambda

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Estimates advantages by :func:`gae`."""
        return gae(rewards, values, mask, self.gamma, self.gae_lambda)


class RLOO(AdvantageEstimator):
    """REINFORCE leave-one-out: a prompt's other responses are the baseline; no value head.

    Args:
        k: Responses per prompt, at least 2.

    Raises:
        InputError: If ``k`` is 1.
    """

    def __init__(self, k: PositiveInt = 4):
        self.responses_per_prompt = _at_least_two(k)

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Estimates advantages by :func:`leave_one_out`."""
        return _spread(leave_one_out(rewards.sum(dim=1), self.responses_per_prompt), mask)


class GRPO(AdvantageEstimator):
    """Group-relative policy optimization: rewards standardized per prompt; no value head.

    Args:
        k: Responses per prompt, at least 2.
        scale: Divide by the standard deviation of each prompt's rewards.

    Raises:
        InputError: If ``k`` is 1.
    """

    def __init__(self, k: PositiveInt = 4, scale: bool = True):
        self.responses_per_prompt = _at_least_two(k)
        self.scale = scale

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Estimates advantages by :func:`group_relative`."""
        k = self.responses_per_prompt
        return _spread(group_relative(rewards.sum(dim=1), k, self.scale), mask)


class Reinforce(AdvantageEstimator):
    """REINFORCE with the batch's mean reward as the baseline; no value head.

    Args:
        k: Responses per prompt.
    """

    whitens = True

    def __init__(self, k: PositiveInt = 1):
        self.responses_per_prompt = k

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Estimates advantages by :func:`batch_baseline`."""
        return _spread(batch_baseline(rewards.sum(dim=1), reduce), mask)


def _at_least_two(k: int) -> int:
    """Refuses a single response per prompt, which could be compared with nothing."""
    if k < 2:
        raise InputError(f"advantage.k={k}: a response is compared with others, so give 2 or more")
    return k

"""Advantages: how much better each token turned out than expected."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor

from detox_lightning.algorithm.masks import Reduce, alone
from detox_lightning.errors import InputError

Parts = dict[str, Tensor]


class AdvantageEstimator(ABC):
    """Turns token rewards into advantages and returns.

    Attributes:
        responses_per_prompt: How many responses each prompt gets, in consecutive rows.
        uses_values: Whether the estimator needs a value head.
        whitens: Whether advantages are scaled to mean 0 and variance 1 over all ranks' tokens.
    """

    responses_per_prompt: int = 1
    uses_values: bool = False
    whitens: bool = False

    def scores(self, total: Tensor, parts: Parts, combine: Callable[[Parts], Tensor]) -> Tensor:
        """Returns the scores ``[b]`` to learn from: the reward's own, ``total``.

        ``parts`` are the reward's terms, each ``[b]``, of which ``combine`` makes a score.
        """
        return total

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


class ResponseAdvantage(AdvantageEstimator):
    """Gives all tokens of a response the same advantage; no value head, so the returns are 0."""

    @abstractmethod
    def compare(self, totals: Tensor, reduce: Reduce) -> Tensor:
        """Computes the advantages ``[b]`` of whole responses from their rewards ``[b]``."""

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Adds up each response's token rewards and compares the sums."""
        totals = rewards.sum(dim=1)
        advantages = torch.where(mask, self.compare(totals, reduce)[:, None], 0)
        return advantages, torch.zeros_like(advantages)


class GAE(AdvantageEstimator):
    """Generalized advantage estimation: one response a prompt, and a value head to learn from.

    https://arxiv.org/abs/1506.02438, equation 16.

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
        """Goes backwards over the tokens; the real tokens of ``mask`` must be consecutive."""
        values = torch.where(mask, values, 0)
        following = torch.zeros_like(values[:, 0])
        next_value = torch.zeros_like(following)
        advantages = torch.zeros_like(values)
        for position in reversed(range(values.shape[1])):
            delta = rewards[:, position] + self.gamma * next_value - values[:, position]
            discounted = self.gamma * self.gae_lambda * following
            following = torch.where(mask[:, position], delta + discounted, 0)
            advantages[:, position] = following
            next_value = values[:, position]
        return advantages, advantages + values


class RLOO(ResponseAdvantage):
    """REINFORCE leave-one-out: the mean of a prompt's other responses is the baseline.

    https://arxiv.org/abs/2402.14740, equation 8.

    Args:
        k: Responses per prompt, at least 2.

    Raises:
        InputError: If ``k`` is 1.
    """

    def __init__(self, k: PositiveInt = 4):
        self.responses_per_prompt = _at_least_two(k)

    def compare(self, totals: Tensor, reduce: Reduce) -> Tensor:
        """Subtracts from each response's reward the mean of its prompt's other responses.

        ``totals`` are ``[b]``; those of :class:`TokenRLOO`, of each token, are ``[b, t]``.
        """
        groups = totals.unflatten(0, (-1, self.responses_per_prompt))
        others = groups.sum(dim=1, keepdim=True) - groups
        return (groups - others / (self.responses_per_prompt - 1)).flatten(0, 1)


class TokenRLOO(RLOO):
    """Leave-one-out for each token: what comes after it, beside the prompt's other responses.

    A token is not charged for the KL penalty of those before it, which only adds noise to
    :class:`RLOO`. The baseline is the mean of the other responses' rewards from the same place on.
    With a reward of tokens such as ``PrefixReward``, a token is judged by what the text was worth
    before it and at the end, or soon after it if ``gae_lambda`` is below 1.

    Args:
        k: Responses per prompt, at least 2.
        gae_lambda: How much a reward counts, one token later. 1 gives the exact gradient; less
            has less noise, but sees only rewards that follow soon, and has another optimum.

    Raises:
        InputError: If ``k`` is 1.
    """

    def __init__(self, k: PositiveInt = 4, gae_lambda: ClosedUnitInterval = 1.0):
        super().__init__(k)
        self.following = GAE(gae_lambda=gae_lambda)

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        """Adds up what follows each token, and subtracts the mean of the others' sums."""
        sums, _ = self.following(rewards, torch.zeros_like(values), mask)
        advantages = torch.where(mask, self.compare(sums, reduce), 0)
        return advantages, torch.zeros_like(advantages)


class BestOfK(RLOO):
    """Learns from the best of a prompt's responses alone, which distils best-of-k into the policy.

    The best response scores 1 and the others 0; those that are equally good share the 1. RLOO then
    compares these scores, so that the mean gradient is k/(k − 1) times that of rejection sampling
    (https://arxiv.org/abs/2304.06767, RAFT), with less noise. The KL penalty joins the scores.

    Args:
        k: Responses per prompt, at least 2.

    Raises:
        InputError: If ``k`` is 1.
    """

    def scores(self, total: Tensor, parts: Parts, combine: Callable[[Parts], Tensor]) -> Tensor:
        """Returns 1 for the best response of each prompt, 0 for the others: ``[b]``."""
        groups = total.view(-1, self.responses_per_prompt)
        is_best = (groups == groups.amax(dim=1, keepdim=True)).to(total.dtype)
        return (is_best / is_best.sum(dim=1, keepdim=True)).flatten()


class Quantile(RLOO):
    """Learns from each response's rank among its prompt's, whatever the scale of the scores.

    The score is the logarithm of its quantile: of the share of the prompt's responses that are no
    better, of which half of those that are equally good counts. The policy that writes the best of
    n is the optimum of log-quantiles under the reference, at a KL penalty of 1/(n − 1)
    (https://arxiv.org/abs/2407.14622, section 3). Here, quantiles are those among the policy's own
    responses.

    Args:
        k: Responses per prompt, at least 2.

    Raises:
        InputError: If ``k`` is 1.
    """

    def scores(self, total: Tensor, parts: Parts, combine: Callable[[Parts], Tensor]) -> Tensor:
        """Returns the logarithms of the quantiles, from log(1/2k) to log(1 − 1/2k): ``[b]``."""
        groups = total.view(-1, self.responses_per_prompt)
        here, others = groups[:, :, None], groups[:, None, :]
        lower, equal = (others < here).sum(dim=2), (others == here).sum(dim=2)
        quantiles = (lower + equal / 2) / self.responses_per_prompt
        return quantiles.to(total.dtype).log().flatten()


class GRPO(ResponseAdvantage):
    """Group-relative policy optimization: rewards are standardized among a prompt's responses.

    https://arxiv.org/abs/2402.03300, section 4.1.2.

    Args:
        k: Responses per prompt, at least 2.
        scale: Divide by the standard deviation of each prompt's rewards (with Bessel's
            correction).

    Raises:
        InputError: If ``k`` is 1.
    """

    def __init__(self, k: PositiveInt = 4, scale: bool = True):
        self.responses_per_prompt = _at_least_two(k)
        self.scale = scale

    def compare(self, totals: Tensor, reduce: Reduce) -> Tensor:
        """Standardizes each response's reward among its prompt's responses."""
        return self.standardized(totals, self.scale)

    def standardized(self, x: Tensor, scale: bool = True) -> Tensor:
        """Centres figures ``[b]`` among each prompt's responses; ``scale`` gives variance 1."""
        groups = x.view(-1, self.responses_per_prompt)
        centred = groups - groups.mean(dim=1, keepdim=True)
        if scale:
            centred = centred / (groups.std(dim=1, keepdim=True) + 1e-4)
        return centred.flatten()


class GDPO(GRPO):
    """Group reward-decoupled normalization: each part of a reward counts alike, whatever its scale.

    https://arxiv.org/abs/2601.05242, section 3. Each part is standardized among a prompt's
    responses, then weighted and added up. The KL penalty joins this sum, so β is the price of a nat
    in standard deviations. The sums are centred for each prompt, and scaled to variance 1 over all
    ranks' tokens.

    Args:
        k: Responses per prompt, at least 2.

    Raises:
        InputError: If ``k`` is 1.
    """

    whitens = True

    def __init__(self, k: PositiveInt = 4):
        super().__init__(k, scale=False)

    def scores(self, total: Tensor, parts: Parts, combine: Callable[[Parts], Tensor]) -> Tensor:
        """Returns the weighted sum of the standardized parts."""
        return combine({name: self.standardized(part) for name, part in parts.items()})


class Reinforce(ResponseAdvantage):
    """REINFORCE with the mean reward of all ranks' responses as the baseline.

    https://doi.org/10.1007/BF00992696.

    Args:
        k: Responses per prompt.
    """

    whitens = True

    def __init__(self, k: PositiveInt = 1):
        self.responses_per_prompt = k

    def compare(self, totals: Tensor, reduce: Reduce) -> Tensor:
        """Subtracts the mean over all ranks' responses from each response's reward."""
        total, count = reduce(torch.stack([totals.sum(), torch.ones_like(totals).sum()]))
        return totals - total / count


def _at_least_two(k: int) -> int:
    """Refuses a single response per prompt, which can't be compared with others."""
    if k < 2:
        raise InputError(f"advantage.k={k}: a response is compared with others, so give 2 or more")
    return k

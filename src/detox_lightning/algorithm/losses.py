"""The losses that an update minimizes: their interface, and the loss of PPO.

A loss is a weighted sum of named terms. Each term is a sum over tokens, with a weight for each,
divided by a divisor (:class:`TokenWeights`). Both are summed over the micro-batches of a mini-batch
and over all ranks, so the gradient depends neither on how a mini-batch is cut into micro-batches
nor on how it is spread over ranks. Another loss is one more subclass of :class:`PolicyLoss`, in any
file; ``model.loss`` names it by its class path.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeVar

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat
from torch import Tensor

from detox_lightning.algorithm.kl import kl_estimate
from detox_lightning.algorithm.types import Experience
from detox_lightning.errors import InputError

Average = Literal["tokens", "responses", "constant"]
Number = TypeVar("Number", Tensor, float)


class TokenWeights(NamedTuple):
    """How the terms of a loss are averaged over responses of different lengths.

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


class LossSums(NamedTuple):
    """A loss of some rows as sums, so that micro-batches and ranks add up.

    Attributes:
        terms: ``[]`` sums over tokens with the weights of the average; divided by its divisor they
            are the means that :meth:`PolicyLoss.total` adds up.
        statistics: ``[]`` sums over real tokens; divided by their number they are logged under
            ``ppo/<name>``.
    """

    terms: dict[str, Tensor]
    statistics: dict[str, Tensor]


class PolicyLoss(ABC):
    """The loss that an update minimizes; a subclass overrides :meth:`policy_loss`.

    Attributes:
        average: How terms are averaged; see :func:`token_weights`.
        coefficients: How much each term counts in the total: ``policy``; ``value`` where a value
            head learns; ``entropy``, negative for a bonus; ``kl``, the KL divergence from the
            reference by the estimator k3.
    """

    average: Average = "tokens"
    coefficients: Mapping[str, float] = {"policy": 1.0}

    @abstractmethod
    def policy_loss(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Gives the loss of each token.

        Args:
            logprobs: ``[m, t]`` log-probabilities of the response tokens under the policy now.
            experience: The same ``m`` rows: old log-probabilities, advantages, the mask.

        Returns:
            ``[m, t]`` losses, and ``[m, t]`` True where a clip holds the policy back. Values at
            padding are ignored.
        """

    def value_loss(self, values: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Gives the loss of each value, as :meth:`policy_loss` does, for a term ``value``."""
        raise NotImplementedError(f"{type(self).__name__} has a term 'value': override value_loss")

    def __call__(
        self,
        logprobs: Tensor,
        values: Tensor,
        entropy: Tensor,
        experience: Experience,
        weights: Tensor,
    ) -> LossSums:
        """Sums the terms over ``m`` rows of experience, from figures ``[m, t]`` of the policy now.

        Values are 0 without a value head. The entropy is in nats and has a gradient only if its
        coefficient is not 0. ``weights`` (``[m, t]``) are those of the average.
        """
        terms, is_clipped = {}, {}
        terms["policy"], is_clipped["policy/clipfrac"] = self.policy_loss(logprobs, experience)
        if "value" in self.coefficients:
            terms["value"], is_clipped["val/clipfrac"] = self.value_loss(values, experience)
        if "entropy" in self.coefficients:
            terms["entropy"] = entropy
        if "kl" in self.coefficients:
            terms["kl"] = kl_estimate(logprobs, experience.ref_logprobs, "k3")
        mask, dtype = experience.response_mask, logprobs.dtype
        return LossSums(  # padding is ignored, NaN included
            {name: (torch.where(mask, x, 0) * weights).sum() for name, x in terms.items()},
            {name: (x & mask).sum().to(dtype) for name, x in is_clipped.items()},
        )

    def total(self, terms: Mapping[str, Number]) -> Number:
        """Adds the terms up, each with its coefficient: gradients are taken of this."""
        products = [weight * terms[name] for name, weight in self.coefficients.items()]
        return sum(products[1:], products[0])


class PPOLoss(PolicyLoss):
    """The clipped losses of PPO for policy and value head.

    https://arxiv.org/abs/1707.06347, equation 7, for the policy, and
    https://arxiv.org/abs/1909.08593 for the clipped value loss.

    Args:
        clip_range: How far the ratio of new to old probability may move from 1 and still be
            rewarded.
        clip_range_value: How far a value may move from the value at rollout and still be
            rewarded.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
        clip_range_high: How far the ratio may move above 1; more than ``clip_range`` lets rare
            tokens grow (DAPO's clip-higher, https://arxiv.org/abs/2503.14476). null:
            ``clip_range``.
        dual_clip: Largest ratio at which a bad token is charged, above 1, usually 3 (dual
            clip, https://arxiv.org/abs/1912.09729). null: no bound.
        kl_coef: Weight of the KL divergence from the reference in the loss, estimated by k3.
            Give ``model.kl.coef=0`` with it, or the divergence is charged for twice.
        average: ``tokens``: every token counts the same. ``responses``: every response counts
            the same. ``constant``: the sum over tokens is divided by the number of responses
            times the tokens of the longest one that may be sampled.

    Raises:
        InputError: If ``dual_clip`` is not above 1.
    """

    def __init__(
        self,
        clip_range: PositiveFloat = 0.2,
        clip_range_value: PositiveFloat = 0.2,
        vf_coef: NonNegativeFloat = 0.1,
        ent_coef: NonNegativeFloat = 0.0,
        clip_range_high: PositiveFloat | None = None,
        dual_clip: PositiveFloat | None = None,
        kl_coef: NonNegativeFloat = 0.0,
        average: Average = "tokens",
    ):
        if dual_clip is not None and dual_clip <= 1:
            raise InputError(f"model.loss.dual_clip={dual_clip}: give a ratio above 1, such as 3")
        self.low, self.high = clip_bounds(clip_range, clip_range_high)
        self.clip_range_value = clip_range_value
        self.dual_clip = dual_clip
        self.average = average
        self.coefficients = {
            "policy": 1.0,
            "value": vf_coef,
            "entropy": -ent_coef,
            **({"kl": kl_coef} if kl_coef else {}),
        }

    def policy_loss(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Clips the ratio; ``dual_clip`` also bounds the charge for a bad token."""
        advantages = experience.advantages
        ratio = log_ratio(logprobs, experience).exp()
        losses, is_clipped = clipped_surrogate(ratio, advantages, self.low, self.high)
        if self.dual_clip is not None:
            bounded = torch.minimum(losses, -advantages * self.dual_clip)
            losses = torch.where(advantages < 0, bounded, losses)
        return losses, is_clipped

    def value_loss(self, values: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Gives half the larger squared error: of V, or of V clipped around its old value."""
        low = experience.old_values - self.clip_range_value
        high = experience.old_values + self.clip_range_value
        error = (values - experience.returns) ** 2
        clipped_error = (values.clamp(low, high) - experience.returns) ** 2
        return 0.5 * torch.maximum(error, clipped_error), clipped_error > error


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped policy loss: max(-A·r, -A·clip(r, low, high)), with r new to old probability.

    Returns:
        ``[m, t]`` losses, and ``[m, t]`` True where the clip holds the ratio back.
    """
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(low, high)
    return torch.maximum(unclipped, clipped), clipped > unclipped


def clip_bounds(clip_range: float, clip_range_high: float | None) -> tuple[float, float]:
    """Returns the smallest and the largest ratio that a clip rewards."""
    return 1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high)


def log_ratio(logprobs: Tensor, experience: Experience) -> Tensor:
    """Returns log(new/old probability) of each token, ``[m, t]``; 0 at padding."""
    return torch.where(experience.response_mask, logprobs - experience.old_logprobs, 0)

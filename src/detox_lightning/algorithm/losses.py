"""The clipped losses of PPO, and what the update reports of itself.

https://arxiv.org/abs/1707.06347, equation 7, and https://arxiv.org/abs/1909.08593 for the clipped
value loss.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat
from torch import Tensor
from typing_extensions import NamedTuple  # Python 3.10's own can't be generic

from detox_lightning.algorithm.masks import masked_sum
from detox_lightning.algorithm.types import Experience


@dataclass(frozen=True)
class PPOLoss:
    """Constants of the loss.

    Attributes:
        clip_range: How far the ratio of new to old probability may move from 1 and still be
            rewarded.
        clip_range_value: How far a value may move from the value at rollout and still be rewarded.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
    """

    clip_range: PositiveFloat = 0.2
    clip_range_value: PositiveFloat = 0.2
    vf_coef: NonNegativeFloat = 0.1
    ent_coef: NonNegativeFloat = 0.0


Number = TypeVar("Number", Tensor, float)


class LossTerms(NamedTuple, Generic[Number]):
    """Sums over the real tokens of some rows; divided by the mini-batch's tokens they are means.

    Attributes:
        policy: Clipped policy loss.
        value: Half the clipped squared error of the value head, before ``vf_coef``.
        entropy: Entropy of the policy, in nats.
        clipfrac: Tokens whose ratio the clip holds back.
        ratio: New to old probability.
        approxkl: Half the squared log-ratio: an estimate of KL(old, new), in nats.
        policykl: Old less new log-probability: the ``k1`` estimate of KL(old, new), in nats.
        value_clipfrac: Tokens whose value the clip holds back.
        vpred: Value head now.
        error: Squared error of the value head now.
    """

    policy: Number
    value: Number
    entropy: Number
    clipfrac: Number
    ratio: Number
    approxkl: Number
    policykl: Number
    value_clipfrac: Number
    vpred: Number
    error: Number


def total_loss(terms: LossTerms[Number], loss: PPOLoss) -> Number:
    """What gradients are taken of: policy loss, value loss and entropy bonus, weighted."""
    return terms.policy + loss.vf_coef * terms.value - loss.ent_coef * terms.entropy


def ppo_loss(
    logprobs: Tensor, values: Tensor, entropy: Tensor, experience: Experience, loss: PPOLoss
) -> LossTerms[Tensor]:
    """Sums the losses over real tokens.

    Sums, not means: micro-batches of any size, added up and divided by the tokens of the
    mini-batch, give the mini-batch's gradient.

    Args:
        logprobs: ``[m, t]`` of the policy now.
        values: ``[m, t]`` of the value head now.
        entropy: ``[m, t]`` of the policy now, with a graph only where ``ent_coef`` needs it.
        experience: The same ``m`` rows.
        loss: The constants.
    """
    mask, advantages, returns = experience.response_mask, experience.advantages, experience.returns
    log_ratio = torch.where(mask, logprobs - experience.old_logprobs, 0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - loss.clip_range, 1 + loss.clip_range)
    low, high = (
        experience.old_values - loss.clip_range_value,
        experience.old_values + loss.clip_range_value,
    )
    error = (values - returns) ** 2
    clipped_error = (values.clamp(low, high) - returns) ** 2

    def count(condition: Tensor) -> Tensor:
        return (condition & mask).sum().to(ratio.dtype)

    return LossTerms(
        policy=masked_sum(torch.maximum(unclipped, clipped), mask),
        value=0.5 * masked_sum(torch.maximum(error, clipped_error), mask),
        entropy=masked_sum(entropy, mask),
        clipfrac=count(clipped > unclipped),
        ratio=masked_sum(ratio, mask).detach(),
        approxkl=0.5 * masked_sum(log_ratio**2, mask).detach(),
        policykl=-masked_sum(log_ratio, mask).detach(),
        value_clipfrac=count(clipped_error > error),
        vpred=masked_sum(values, mask).detach(),
        error=masked_sum(error, mask).detach(),
    )

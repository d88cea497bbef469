"""Losses of methods that compare a prompt's responses with each other and need no value head."""

from typing import Any

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat
from torch import Tensor

from detox_lightning.algorithm.losses import (
    Average,
    PolicyLoss,
    clip_bounds,
    clipped_surrogate,
    log_ratio,
)
from detox_lightning.algorithm.types import Experience


def _coefficients(kl_coef: float, ent_coef: float) -> dict[str, float]:
    """The coefficients of the terms; a term of weight 0 is not computed."""
    named = {"policy": 1.0, "kl": kl_coef, "entropy": -ent_coef}
    return {name: coefficient for name, coefficient in named.items() if coefficient}


class GRPOLoss(PolicyLoss):
    """The loss of GRPO as published, https://arxiv.org/abs/2402.03300, equation 3.

    PPO's clipped policy loss, averaged over each response's tokens and then over responses, and
    the KL divergence from the reference, estimated by k3, as a term of the loss.

    Args:
        clip_range: How far the ratio of new to old probability may move from 1 and still be
            rewarded.
        clip_range_high: How far the ratio may move above 1; null: ``clip_range``.
        kl_coef: Weight of the KL divergence from the reference in the loss. Give
            ``model.kl.coef=0`` with it, or the divergence is charged for twice.
        ent_coef: Weight of the entropy bonus.
    """

    average: Average = "responses"

    def __init__(
        self,
        clip_range: PositiveFloat = 0.2,
        clip_range_high: PositiveFloat | None = None,
        kl_coef: NonNegativeFloat = 0.04,
        ent_coef: NonNegativeFloat = 0.0,
    ):
        self.low, self.high = clip_bounds(clip_range, clip_range_high)
        self.coefficients = _coefficients(kl_coef, ent_coef)

    def policy_loss(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Clips each token's ratio."""
        ratio = log_ratio(logprobs, experience).exp()
        return clipped_surrogate(ratio, experience.advantages, self.low, self.high)


class DrGRPOLoss(GRPOLoss):
    """The loss of Dr. GRPO, https://arxiv.org/abs/2503.20783.

    A sum over tokens is divided by a constant, so a token of a long response counts as much as one
    of a short response. The paper's method is this loss with ``model.advantage`` GRPO and
    ``scale: false``.

    Args:
        kl_coef: Weight of the KL divergence from the reference in the loss.
        options: The other options of :class:`GRPOLoss`.
    """

    average: Average = "constant"

    def __init__(self, kl_coef: NonNegativeFloat = 0.0, **options: Any):
        super().__init__(kl_coef=kl_coef, **options)


class GSPOLoss(GRPOLoss):
    """The loss of GSPO, https://arxiv.org/abs/2507.18071, equations 5 and 7, in its token form.

    All tokens of a response have the same ratio: the geometric mean of their own. It moves far
    less than a token's, and so its clip range is small.

    Args:
        clip_range: How far a response's ratio may move below 1 and still be rewarded.
        clip_range_high: How far the ratio may move above 1; null: ``clip_range``.
        kl_coef: Weight of the KL divergence from the reference in the loss.
        ent_coef: Weight of the entropy bonus.
    """

    def __init__(
        self,
        clip_range: PositiveFloat = 3e-4,
        clip_range_high: PositiveFloat | None = 4e-4,
        kl_coef: NonNegativeFloat = 0.0,
        ent_coef: NonNegativeFloat = 0.0,
    ):
        super().__init__(clip_range, clip_range_high, kl_coef, ent_coef)

    def policy_loss(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Clips each response's ratio."""
        lengths = experience.response_mask.sum(dim=1, keepdim=True).clamp(min=1)
        ratios = log_ratio(logprobs, experience)
        means = ratios.sum(dim=1, keepdim=True).detach() / lengths
        # the mean's value with the token's own gradient, so that each learns its own advantage
        ratio = (means + ratios - ratios.detach()).exp()
        # padding has this ratio, too, and a user's estimator may leave NaN there
        advantages = torch.where(experience.response_mask, experience.advantages, 0)
        return clipped_surrogate(ratio, advantages, self.low, self.high)


class CISPOLoss(PolicyLoss):
    """The loss of CISPO, https://arxiv.org/abs/2506.13585, equations 4 and 5.

    -A·clip(r)·log p, with no gradient through the ratio r: a token whose ratio is clipped still
    learns, with a bounded weight.

    Args:
        clip_range_high: How far the weight of a token may be above 1.
        clip_range: How far the weight of a token may be below 1; null: no bound, as in the
            paper's experiments.
        kl_coef: Weight of the KL divergence from the reference in the loss.
        ent_coef: Weight of the entropy bonus.
    """

    def __init__(
        self,
        clip_range_high: PositiveFloat = 0.2,
        clip_range: PositiveFloat | None = None,
        kl_coef: NonNegativeFloat = 0.0,
        ent_coef: NonNegativeFloat = 0.0,
    ):
        self.low = 0.0 if clip_range is None else 1 - clip_range
        self.high = 1 + clip_range_high
        self.coefficients = _coefficients(kl_coef, ent_coef)

    def policy_loss(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """Weighs each token's log-probability with its clipped ratio."""
        ratio = log_ratio(logprobs, experience).exp().detach()
        weight = ratio.clamp(self.low, self.high)
        return -experience.advantages * weight * logprobs, weight != ratio

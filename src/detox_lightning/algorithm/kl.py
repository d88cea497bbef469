"""The KL divergence of the policy from the reference, and the penalty for it."""

from dataclasses import dataclass
from typing import Literal

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat
from torch import Tensor

Estimator = Literal["k1", "abs", "k2", "k3", "full"]


@dataclass(frozen=True)
class KLPenalty:
    """The KL penalty and its controller.

    Attributes:
        estimator: Estimator of the divergence at each token, from the log-ratio d of policy to
            reference: ``k1`` d, ``abs`` |d|, ``k2`` d²/2, ``k3`` exp(-d) - 1 + d, ``full`` the sum
            over the vocabulary. A penalty by another than ``k1`` hasn't the divergence's gradient.
        coef: β, the price of a nat in units of the score; the controller's initial value.
        target: Nats per response that the controller steers to; null keeps ``coef`` fixed.
        horizon: Responses over which the controller acts; a smaller number makes it quicker.
    """

    estimator: Estimator = "k1"
    coef: NonNegativeFloat = 0.2
    target: PositiveFloat | None = 6.0
    horizon: PositiveFloat = 10_000.0

    def next_coef(self, coef: float, kl: float, responses: int) -> float:
        """Computes the coefficient for the next rollout.

        ``coef * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon)``, from Ziegler et al.
        2019, https://arxiv.org/abs/1909.08593, section 2.2.

        Args:
            coef: This rollout's coefficient.
            kl: This rollout's mean over responses of the sum over tokens, in nats.
            responses: Responses in this rollout, on all ranks.
        """
        if self.target is None:
            return coef
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coef * (1 + error * responses / self.horizon)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """Estimates the KL divergence at each token from the sampled token alone: ``[b, t]``, in nats.

    Formulas: http://joschu.net/blog/kl-approx.html.

    Raises:
        ValueError: For ``full``, which needs :func:`full_kl`.
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "abs":
        return log_ratio.abs()
    if estimator == "k2":
        return 0.5 * log_ratio**2
    if estimator == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"{estimator!r} can't be estimated from the sampled token")


def full_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL divergences ``[b, t]`` of whole distributions, in nats, from logits ``[b, t, V]``."""
    logprobs, ref_logprobs = logits.log_softmax(dim=-1), ref_logits.log_softmax(dim=-1)
    terms = logprobs.exp() * (logprobs - ref_logprobs)
    return torch.where(logprobs.isneginf(), 0, terms).sum(dim=-1)

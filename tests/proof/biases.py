"""What each choice does to the expected gradient, beside the exact one, as rows of a table."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from detox_lightning.algorithm.advantages import (
    GAE,
    GRPO,
    RLOO,
    AdvantageEstimator,
    Reinforce,
    TokenRLOO,
)
from detox_lightning.algorithm.experience import ScoreShaping
from detox_lightning.algorithm.kl import Estimator
from detox_lightning.algorithm.losses import PolicyLoss
from detox_lightning.algorithm.types import Rollout
from proof.gradients import Comparison, Laboratory, Stepped, compare, plain_loss, unwhitened

NO_CLIP = 1e9


class Row(NamedTuple):
    """One line of the table: what is estimated how, and how far that is from the exact gradient."""

    name: str
    found: Comparison


def estimated(
    lab: Laboratory,
    advantage: AdvantageEstimator,
    loss: PolicyLoss | None = None,
    rollout: Rollout | None = None,
    k: int = 2,
    factor: float = 1.0,
    **options: object,
) -> Comparison:
    """Compares an expected gradient, times ``factor``, with that of J."""
    steps = lab.coefficients(advantage, loss or plain_loss(), k, rollout, **options)
    return compare(factor * lab.carried(steps), lab.exact(beta=options.get("beta")))


def without_baseline() -> GAE:
    """Plain REINFORCE with the rewards to come: GAE of λ 1 where the value head says 0."""
    return unwhitened(GAE(gae_lambda=1.0))


def exact_rows(lab: Laboratory) -> Iterator[Row]:
    """Estimators whose mean is the gradient of J, or that times a known number."""
    valued = lab.rollout()._replace(values=lab.values(lab.rollout()))
    wrong = valued._replace(values=torch.ones_like(valued.values))
    yield Row("RLOO", estimated(lab, RLOO(2)))
    yield Row("TokenRLOO", estimated(lab, TokenRLOO(2)))
    yield Row("no baseline", estimated(lab, without_baseline(), k=1))
    yield Row("GAE, λ 1, exact values", estimated(lab, without_baseline(), rollout=valued, k=1))
    yield Row("GAE, λ 1, all values 1", estimated(lab, without_baseline(), rollout=wrong, k=1))
    exact_values = {"rollout": valued, "k": 1}
    yield Row("GAE, λ 0.5, exact values", estimated(lab, unwhitened(GAE(1, 0.5)), **exact_values))
    yield Row("Reinforce, not whitened", estimated(lab, unwhitened(Reinforce())))
    yield Row("GRPO, `scale: false`", estimated(lab, GRPO(2, scale=False)))


def biased_rows(lab: Laboratory) -> Iterator[Row]:
    """Choices that change the direction: averages, scales, a value head's errors, samplers."""
    length = float(
        (
            lab.rollout().old_logprobs.sum(1).exp()
            * lab.world.lengths.repeat(len(lab.world.rewards))
        ).sum()
    )
    length /= len(lab.world.rewards)
    valued = lab.rollout()._replace(values=lab.values(lab.rollout()))
    yield Row(
        "`average: tokens`", estimated(lab, RLOO(2), plain_loss(average="tokens"), factor=length)
    )
    responses = plain_loss(average="responses")
    yield Row("`average: responses`", estimated(lab, RLOO(2), responses, factor=length))
    yield Row("GRPO, `scale: true`", estimated(lab, GRPO(2)))
    yield Row("Reinforce, whitened", estimated(lab, Reinforce()))
    yield Row("GAE, λ 1, exact values, whitened", estimated(lab, GAE(1, 1), rollout=valued))
    for gae_lambda in (0.95, 0.5, 0.0):
        advantage = unwhitened(GAE(1, gae_lambda))
        yield Row(f"GAE, λ {gae_lambda:g}, all values 0", estimated(lab, advantage, k=1))
    cut = ScoreShaping(mask_truncated_completions=True)
    yield Row("`mask_truncated_completions`", estimated(lab, RLOO(2), shaping=cut))
    for options in ({"top_p": 0.9}, {"top_p": 0.5}, {"top_k": 2}):
        narrow = replace(
            lab, sampled_from=lab.truncated_logprobs(**{"top_k": 0, "top_p": 1} | options)
        )
        ((option, value),) = options.items()
        yield Row(f"`{option}: {value}`", estimated(narrow, RLOO(2)))


def penalty(lab: Laboratory, estimator: Estimator) -> torch.Tensor:
    """The expected gradient of the penalty alone, in the rewards."""
    rollout = lab.rollout(estimator)
    nothing = rollout._replace(scores=torch.zeros_like(rollout.scores))
    return lab.carried(lab.coefficients(RLOO(2), plain_loss(), 2, nothing))


def loss_term(lab: Laboratory) -> torch.Tensor:
    """The expected gradient of the term ``kl`` of a loss alone."""
    rollout = lab.rollout()
    nothing = rollout._replace(scores=torch.zeros_like(rollout.scores))
    loss = plain_loss(kl_coef=lab.beta)
    return lab.carried(lab.coefficients(RLOO(2), loss, 2, nothing, beta=0.0))


def penalty_rows(lab: Laboratory) -> Iterator[Row]:
    """Penalties alone, beside the gradient of -β·KL."""
    exact = lab.exact(torch.zeros_like(lab.world.rewards))
    for estimator in ("k1", "full", "k3", "k2", "abs"):
        yield Row(f"`{estimator}` in the rewards", compare(penalty(lab, estimator), exact))
    yield Row("`k3` in the loss", compare(loss_term(lab), exact))


def later_rows(taken: Stepped) -> Iterator[Row]:
    """Gradients behind a step, from the responses of before it; rewards without KL."""
    sampled = taken.before.rollout()
    names = {NO_CLIP: "not clipped", 0.2: "`clip_range: 0.2`", 0.05: "`clip_range: 0.05`"}
    for clip, name in names.items():
        loss = plain_loss(clip_range=clip)
        yield Row(name, estimated(taken.after, RLOO(2), loss, sampled, beta=0.0))

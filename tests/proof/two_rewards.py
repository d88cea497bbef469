"""``fit`` on an enumerable world with two rewards, and what it makes of each."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import GDPO, GRPO, RLOO, AdvantageEstimator
from detox_lightning.algorithm.constraint import Constraint
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import WeightedReward
from numerics import in_float64
from proof.training import K, train
from proof.world import Kind, TableReward, World, figures, kl, make_world, optimum

BETA, ROLLOUTS = 1.0, 60
AT_LEAST = 0.3  # of the other reward; the best policy without a limit is below -0.1
SCALE = 20.0  # of the other reward, where the two are added up
# with β in the units of what the estimator adds up
ADDED: dict[str, tuple[AdvantageEstimator, float]] = {
    "RLOO": (RLOO(K), SCALE),
    "GRPO": (GRPO(K), SCALE),
    "GDPO": (GDPO(K), 1.0),
}


class Limited(NamedTuple):
    """What ``fit`` with a limit reached, and the best policy that keeps the limit.

    Attributes:
        measure: E[m].
        multiplier: λ at the end.
        best_multiplier: λ of the best policy.
        gain: J - J_ref, for the world's own rewards.
        best_gain: That of the best policy.
        share: The gain in J + λ*·E[m], which the best policy makes largest, beside the best one's.
        distance: KL(π‖best), in nats a response.
        free: E[m] of the best policy without a limit.
    """

    measure: float
    multiplier: float
    best_multiplier: float
    gain: float
    best_gain: float
    share: float
    distance: float
    free: float


def other_rewards(world: World) -> Tensor:
    """``[p, n]`` normal numbers, which the world's rewards know nothing of."""
    distinct = list(dict.fromkeys(world.texts))
    generator = torch.Generator().manual_seed(7)
    table = torch.randn(len(world.rewards), len(distinct), generator=generator)
    return table.double()[:, [distinct.index(text) for text in world.texts]]


def fit(
    folder: Path, world: World, other: Tensor, weights: list[float], **options: Any
) -> tuple[PPOModule, Tensor, Tensor]:
    """Trains all weights for the world's rewards and others, with options of :class:`PPOModule`.

    Returns:
        The module, the trained policy and its reference, both ``[p, n]`` in float64.
    """
    second = TableReward(
        {
            (prompt, text): value
            for prompt, row in zip(world.prompts.prompts, other.tolist(), strict=True)
            for text, value in zip(world.texts, row, strict=True)
        }
    )
    second.name = "other"
    given = {
        "reward": WeightedReward([world.reward, second], weights),
        "advantage": RLOO(K),
        "seed": 0,
        "evaluation": EvaluationPlan(toxicity_model="demo:classifier"),
    }
    module = train(folder, world, ROLLOUTS, **{**given, **options})
    with in_float64(module.policy), torch.no_grad():
        return module, world.logprobs(module.policy), world.reference_logprobs(module.policy)


def expected(logprobs: Tensor, values: Tensor) -> float:
    """The mean over prompts of the expected value; both are ``[p, n]``."""
    return float((logprobs.exp() * values).sum(dim=1).mean())


def deviation(logprobs: Tensor, values: Tensor) -> float:
    """The standard deviation among responses to a prompt, root mean square over prompts."""
    means = (logprobs.exp() * values).sum(dim=1, keepdim=True)
    return expected(logprobs, (values - means) ** 2) ** 0.5


def best_within(reference: Tensor, rewards: Tensor, measure: Tensor) -> tuple[Tensor, float]:
    """π ∝ π_ref·exp((r + λ·m)/β), ``[p, n]``, with the λ, by bisection, that keeps the limit."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        best, _ = optimum(reference, rewards + middle * measure, BETA)
        low, high = (low, middle) if expected(best, measure) > AT_LEAST else (middle, high)
    return best, high


def fit_within_limit(folder: Path, kind: Kind, rate: float = 0.1) -> Limited:
    """Maximizes J where the mean of the other reward, which isn't paid for, has a limit."""
    world = make_world(folder / f"{kind}-{rate}", kind, Sampling(2))
    measure = other_rewards(world)
    limit, penalty = Constraint("other", at_least=AT_LEAST, rate=rate), KLPenalty("k1", BETA, None)
    module, now, reference = fit(folder, world, measure, [1.0, 0.0], kl=penalty, constraint=limit)
    best, multiplier = best_within(reference, world.rewards, measure)

    def gain(policy: Tensor, price: float = 0.0) -> float:
        rewards = world.rewards + price * measure
        before, after = (figures(x, reference, rewards, BETA) for x in (reference, policy))
        return float(after.objective - before.objective)

    return Limited(
        expected(now, measure),
        module.multiplier.value,
        multiplier,
        gain(now),
        gain(best),
        gain(now, multiplier) / gain(best, multiplier),
        float(kl(now, best)),
        expected(optimum(reference, world.rewards, BETA)[0], measure),
    )


class Gains(NamedTuple):
    """How far the small and the large reward rise, each in its own standard deviations.

    Attributes:
        reached: By training.
        plain: By the best policy for their plain sum, with β :data:`SCALE`.
        alike: By the best policy for the sum of both, each divided by its standard deviation under
            the reference, with β 1.
    """

    reached: list[float]
    plain: list[float]
    alike: list[float]


def gains_of_both(folder: Path, name: str) -> Gains:
    """Trains with an estimator of :data:`ADDED` for two rewards, one :data:`SCALE` larger."""
    advantage, beta = ADDED[name]
    world = make_world(folder / name, sampling=Sampling(2))
    both = world.rewards, SCALE * other_rewards(world)
    options = {"advantage": advantage, "kl": KLPenalty("k1", beta, None)}
    _, now, reference = fit(folder, world, both[1], [1.0, 1.0], **options)
    stds = [deviation(reference, x) for x in both]
    plain, _ = optimum(reference, both[0] + both[1], SCALE)
    alike, _ = optimum(reference, both[0] / stds[0] + both[1] / stds[1], 1.0)

    def gains(policy: Tensor) -> list[float]:
        rises = [expected(policy, x) - expected(reference, x) for x in both]
        return [rise / std for rise, std in zip(rises, stds, strict=True)]

    return Gains(gains(now), gains(plain), gains(alike))

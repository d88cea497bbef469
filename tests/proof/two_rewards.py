"""``fit`` on an enumerable world with two rewards, and what it makes of each."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detox_lightning.algorithm.advantages import RLOO
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import WeightedReward
from detox_lightning.stages.optimization import Schedule
from numerics import in_float64
from proof.world import PROMPTS, TableReward, World, optimum
from toys import make_trainer

K, RESPONSES = 8, 256


def other_rewards(world: World) -> Tensor:
    """``[p, n]`` normal numbers, which the world's rewards know nothing of."""
    distinct = list(dict.fromkeys(world.texts))
    generator = torch.Generator().manual_seed(7)
    table = torch.randn(len(world.rewards), len(distinct), generator=generator)
    return table.double()[:, [distinct.index(text) for text in world.texts]]


def fit(
    folder: Path, world: World, other: Tensor, weights: list[float], rollouts: int, **options: Any
) -> tuple[PPOModule, Tensor, Tensor]:
    """Trains all weights for the world's rewards and others, with options of :class:`PPOModule`.

    Returns:
        The module, the trained policy and its reference, both ``[p, n]`` in float64.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    second = TableReward(
        {
            (prompt, text): value
            for prompt, row in zip(world.prompts.prompts, other.tolist(), strict=True)
            for text, value in zip(world.texts, row, strict=True)
        }
    )
    second.name = "other"
    defaults = {"advantage": RLOO(K), "seed": 0, "schedule": Schedule("cosine")}
    module = PPOModule(
        str(world.folder),
        WeightedReward([world.reward, second], weights),
        lora=None,
        sampling=world.sampling,
        mini_batch_size=RESPONSES,
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-2, betas=(0.9, 0.98)),
        evaluation=EvaluationPlan(toxicity_model="demo:classifier"),
        **{**defaults, **options},
    )
    batch = world.prompts.repeated(RESPONSES // len(PROMPTS) // K)
    batch = batch._replace(places=torch.arange(len(batch.prompts)))
    make_trainer(folder, max_epochs=1).fit(module, DataLoader([batch] * rollouts, batch_size=None))
    with in_float64(module.policy), torch.no_grad():
        return module, world.logprobs(module.policy), world.reference_logprobs(module.policy)


def expected(logprobs: Tensor, values: Tensor) -> float:
    """The mean over prompts of the expected value; both are ``[p, n]``."""
    return float((logprobs.exp() * values).sum(dim=1).mean())


def deviation(logprobs: Tensor, values: Tensor) -> float:
    """The standard deviation among responses to a prompt, root mean square over prompts."""
    means = (logprobs.exp() * values).sum(dim=1, keepdim=True)
    return expected(logprobs, (values - means) ** 2) ** 0.5


def best_within(
    reference: Tensor, rewards: Tensor, measure: Tensor, beta: float, at_least: float
) -> tuple[Tensor, float]:
    """π ∝ π_ref·exp((r + λ·m)/β), ``[p, n]``, with the λ, by bisection, at which E[m] is x."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        best, _ = optimum(reference, rewards + middle * measure, beta)
        low, high = (low, middle) if expected(best, measure) > at_least else (middle, high)
    return best, high

"""The package's own ``fit`` on an enumerable world, and exact figures of what it trained."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detox_lightning.algorithm.advantages import (
    GAE,
    GRPO,
    RLOO,
    AdvantageEstimator,
    Reinforce,
)
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.batches import PromptBatch
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.ppo.module import PPOModule
from detox_lightning.stages.optimization import Schedule
from proof.world import Kind, World, figures, kl, make_world, optimum
from toys import make_trainer

K = 8
ESTIMATORS: dict[str, AdvantageEstimator] = {
    "GAE": GAE(),
    "RLOO": RLOO(K),
    "GRPO": GRPO(K),
    "Reinforce": Reinforce(K),
}
PROMPTS = 2
ROLLOUTS, RESPONSES, EPOCHS, LR = 100, 512, 4, 5e-3


class Reached(NamedTuple):
    """Exact figures of a trained policy.

    Attributes:
        share: (J - J_ref) / (J* - J_ref), which is J/J* in a :func:`centred` world.
        distance: KL(π‖π*), in nats a response.
        reward: E[r].
        kl: KL(π‖π_ref), in nats a response.
    """

    share: float
    distance: float
    reward: float
    kl: float


def trainable_world(folder: Path, kind: Kind) -> World:
    """A world of two prompts, whose rewards have the mean 0 under the reference.

    This zero changes no optimum, and makes J/J* the share of what can be gained: J_ref is 0.
    """
    world = make_world(folder, kind)
    batch = world.prompts
    tensors = {name: x[:PROMPTS] for name, x in batch._asdict().items() if name != "columns"}
    world = replace(world, prompts=PromptBatch(**tensors), rewards=world.rewards[:PROMPTS])
    policy = world.policy()
    means = (world.reference_logprobs(policy).double().exp() * world.rewards).sum(1, keepdim=True)
    return replace(world, rewards=(world.rewards - means).float().double())


def fit(
    folder: Path,
    world: World,
    advantage: AdvantageEstimator,
    beta: float,
    seed: int,
    lr: float = LR,
    rollouts: int = ROLLOUTS,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Trains all weights by the package's ``fit``.

    Returns:
        ``[p, n]`` the trained policy, and the reference.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    defaults = {
        "ppo_epochs": EPOCHS,
        "mini_batch_size": RESPONSES,
        "kl": KLPenalty(coef=beta, target=None),
        "schedule": Schedule("cosine"),
        "evaluation": EvaluationPlan(toxicity_model="demo:classifier"),
    }
    module = PPOModule(
        str(world.folder),
        world.reward,
        lora=None,
        sampling=world.sampling,
        advantage=advantage,
        optimizer=lambda params: torch.optim.Adam(params, lr=lr),
        seed=seed,
        **{**defaults, **options},
    )
    responses = defaults["mini_batch_size"] = options.get("mini_batch_size", RESPONSES)
    repeats = responses // PROMPTS // advantage.responses_per_prompt
    batch = world.prompts.repeated(repeats)
    batch = batch._replace(places=torch.arange(len(batch.prompts)))
    trainer = make_trainer(folder, max_epochs=1)
    trainer.fit(module, DataLoader([batch] * rollouts, batch_size=None))
    with torch.no_grad():
        trained = world.logprobs(module.policy).double()
        return trained, world.reference_logprobs(module.policy).double()


def reached(world: World, trained: Tensor, reference: Tensor, beta: float) -> Reached:
    """Exact figures of a trained policy ``[p, n]``."""
    best, highest = optimum(reference, world.rewards, beta)
    before = figures(reference, reference, world.rewards, beta).objective
    now = figures(trained, reference, world.rewards, beta)
    share = (now.objective - before) / (highest - before)
    numbers = share, kl(trained, best), now.reward, now.kl
    return Reached(*(float(x) for x in numbers))

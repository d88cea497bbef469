"""The package's own ``fit`` on an enumerable world, and exact figures of what it trained."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detox_lightning.algorithm.advantages import GAE, GRPO, RLOO, Reinforce
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.ppo.module import PPOModule
from detox_lightning.stages.optimization import Schedule
from proof.world import Kind, World, figures, kl, make_world, optimum
from toys import make_trainer

K, PROMPTS, LIMIT = 8, 2, 2
ROLLOUTS, RESPONSES, EPOCHS, LR = 80, 256, 4, 1e-2
BETAS = (0.2, 0.5, 1.0, 2.0)
SEEDS = (0, 1, 2)
ESTIMATORS: dict[str, dict[str, Any]] = {
    "GAE": {"advantage": GAE()},
    "RLOO": {"advantage": RLOO(K)},
    "GRPO": {"advantage": GRPO(K)},
    "Reinforce": {"advantage": Reinforce(K)},
}

CONSTANT: dict[str, dict[str, Any]] = {
    f"{name}, constant": {**options, "schedule": Schedule()} for name, options in ESTIMATORS.items()
}


def variants(beta: float) -> dict[str, dict[str, Any]]:
    """Options other than the defaults, with RLOO: some of them have another fixed point."""
    in_loss = {"loss": PPOLoss(kl_coef=beta), "kl": KLPenalty(coef=0.0, target=None)}
    penalties = {
        f"`kl.estimator: {kind}`": {"kl": KLPenalty(kind, beta, None)}
        for kind in ("abs", "k2", "k3", "full")
    }
    per_response = {"loss": PPOLoss(average="responses")}
    rows = {"`loss.average: responses`": per_response, "`loss.kl_coef`": in_loss, **penalties}
    return {name: {"advantage": RLOO(K), **options} for name, options in rows.items()}


class Reached(NamedTuple):
    """Exact figures of a trained policy.

    Attributes:
        share: (J - J_ref) / (J* - J_ref). In a :func:`trainable_world`, J_ref is 0: it is J/J*.
        distance: KL(π‖π*), in nats a response.
        reward: E[r].
        kl: KL(π‖π_ref), in nats a response.
    """

    share: float
    distance: float
    reward: float
    kl: float


def trainable_world(folder: Path, kind: Kind = "t5", limit: int = LIMIT) -> World:
    """A world of two prompts, whose rewards have the mean 0 under the reference.

    Where the rewards have their zero changes no optimum; so J_ref is 0.
    """
    world = make_world(folder, kind, Sampling(limit))
    few = world.prompts.select(torch.arange(PROMPTS))
    world = replace(world, prompts=few, rewards=world.rewards[:PROMPTS])
    p = world.reference_logprobs(world.policy(value_head=False)).double().exp()
    means = (p * world.rewards).sum(dim=1, keepdim=True)
    return replace(world, rewards=(world.rewards - means).float().double())


def train(
    folder: Path, world: World, rollouts: int = ROLLOUTS, lr: float = LR, **options: Any
) -> PPOModule:
    """Trains all weights by the package's ``fit``, with options of :class:`PPOModule`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    defaults = {
        "reward": world.reward,
        "ppo_epochs": EPOCHS,
        "mini_batch_size": RESPONSES,
        "schedule": Schedule("cosine"),
    }
    module = PPOModule(
        str(world.folder),
        lora=None,
        sampling=world.sampling,
        optimizer=lambda params: torch.optim.Adam(params, lr=lr, betas=(0.9, 0.98)),
        **{**defaults, **options},
    )
    each = RESPONSES // len(world.prompts.prompts) // module.advantage.responses_per_prompt
    batch = world.prompts.repeated(each)
    batch = batch._replace(places=torch.arange(len(batch.prompts)))
    trainer = make_trainer(folder, max_epochs=1)
    trainer.fit(module, DataLoader([batch] * rollouts, batch_size=None))
    return module


def fit(
    folder: Path, world: World, beta: float, seed: int, **options: Any
) -> tuple[Tensor, Tensor]:
    """Trains with this β; see :func:`train`.

    Returns:
        ``[p, n]`` the trained policy, and the reference.
    """
    given = {"kl": KLPenalty(coef=beta, target=None), "seed": seed, **options}
    module = train(folder, world, **given)
    with torch.no_grad():
        trained = world.logprobs(module.policy).double()
    return trained, world.reference_logprobs(module.policy).double()


def reached(world: World, trained: Tensor, reference: Tensor, beta: float) -> Reached:
    """Exact figures of a trained policy ``[p, n]``."""
    best, highest = optimum(reference, world.rewards, beta)
    before = figures(reference, reference, world.rewards, beta).objective
    now = figures(trained, reference, world.rewards, beta)
    share = (now.objective - before) / (highest - before)
    return Reached(*(float(x) for x in (share, kl(trained, best), now.reward, now.kl)))

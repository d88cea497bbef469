"""What estimates values, trained alone, approaches the exact values of a world's prefixes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import GAE
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy
from detox_lightning.ppo.module import PPOModule
from proof.world import World, make_world
from toys import make_trainer

ROLLOUTS = 12
LAYERS = ["q", "k", "v", "o", "wi", "wo"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def exact_values(world: World, probabilities: Tensor) -> Tensor:
    """``[p, n, t]`` E[r | what was said before each token], from probabilities ``[p, n]``."""
    count = int(world.prefixes.max()) + 1
    sums = torch.zeros(2, len(probabilities), count, dtype=torch.float64)
    for place in range(world.ids.shape[1]):
        at = world.prefixes[:, place].expand_as(probabilities)
        here = probabilities * world.mask[:, place]
        sums.scatter_add_(2, torch.stack([at, at]), torch.stack([here * world.rewards, here]))
    table = sums[0] / sums[1].clamp(min=1e-30)
    before = torch.cat([world.prefixes[:, :1], world.prefixes[:, :-1]], dim=1)
    values = table[:, before]
    values[:, :, 0] = (probabilities * world.rewards).sum(dim=1, keepdim=True)
    return values


@torch.no_grad()
def explained(world: World, policy: Policy) -> float:
    """The share of the exact values' variance that the estimates explain, over all tokens."""
    probabilities = world.logprobs(policy).exp().double()
    found = world.rollout(policy).values.view(*probabilities.shape, -1).double()
    wanted = exact_values(world, probabilities)
    weights = probabilities[:, :, None] * world.mask
    weights /= weights.sum()
    spread = (weights * (wanted - (weights * wanted).sum()) ** 2).sum()
    return float(1 - (weights * (found - wanted) ** 2).sum() / spread)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("critic", "rate", "least"),
    [("head", 0.005, 0.3), ("adapter", 0.005, 0.5), ("own", 0.01, 0.4)],
)
def test_values_approach_the_exact_ones(
    world: World, tiny_classifier: str, tmp_path: Path, critic: str, rate: float, least: float
) -> None:
    """In a warm-up as long as the run, so that the policy stays what it was."""
    if critic == "own":
        critic = str(make_world(tmp_path / "own", seed=1).folder)
    module = PPOModule(
        str(world.folder),
        world.reward,
        lora=LoRA(r=8, alpha=8, dropout=0.0, target_modules=LAYERS),
        sampling=world.sampling,
        mini_batch_size=64,
        ppo_epochs=2,
        advantage=GAE(gae_lambda=1.0),
        loss=PPOLoss(clip_range_value=100.0),
        critic=critic,
        critic_lr=rate,
        value_warmup=ROLLOUTS,
        evaluation=EvaluationPlan(toxicity_model=tiny_classifier),
        seed=0,
    )
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, max_epochs=ROLLOUTS)
    trainer.fit(module, world.loader(repeats=128))
    assert explained(world, module.policy) > least
    assert abs(module.trainer.callback_metrics["objective/kl"]) < 1e-5

"""``fit`` with a limit, held to the best policy that keeps the limit."""

from pathlib import Path

import pytest
import torch

from detox_lightning.algorithm.advantages import RLOO
from detox_lightning.algorithm.constraint import Constraint
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import WeightedReward
from detox_lightning.stages.optimization import Schedule
from numerics import in_float64
from proof.world import TableReward, World, figures, kl, make_world, optimum
from toys import make_trainer

BETA, AT_LEAST = 1.0, 0.3


def measured(world: World) -> torch.Tensor:
    """``[p, n]`` what is limited: normal numbers, which the rewards know nothing of."""
    distinct = list(dict.fromkeys(world.texts))
    generator = torch.Generator().manual_seed(7)
    table = torch.randn(len(world.rewards), len(distinct), generator=generator).double()
    return table[:, [distinct.index(text) for text in world.texts]]


def best_within(
    reference: torch.Tensor, rewards: torch.Tensor, measure: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """π ∝ π_ref·exp((r + λ·m)/β), ``[p, n]``, with the λ, by bisection, at which E[m] is x."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        best, _ = optimum(reference, rewards + middle * measure, BETA)
        is_kept = (best.exp() * measure).sum(dim=1).mean() > AT_LEAST
        low, high = (low, middle) if is_kept else (middle, high)
    return best, high


@pytest.mark.slow
def test_it_comes_near_the_best_policy_that_keeps_the_limit(
    tmp_path: Path, tiny_classifier: str
) -> None:
    world = make_world(tmp_path / "world", sampling=Sampling(2), d_model=32)
    measure = measured(world)
    pairs = zip(world.prompts.prompts, measure.tolist(), strict=True)
    limited = TableReward({(x, y): m for x, row in pairs for y, m in zip(world.texts, row)})  # noqa: B905
    limited.name = "limited"
    module = PPOModule(
        str(world.folder),
        WeightedReward([world.reward, limited], [1.0, 0.0]),
        lora=None,
        sampling=world.sampling,
        advantage=RLOO(8),
        ppo_epochs=1,
        mini_batch_size=128,
        kl=KLPenalty(coef=BETA, target=None),
        constraint=Constraint("limited", at_least=AT_LEAST, rate=0.1),
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-2),
        schedule=Schedule("cosine"),
        evaluation=EvaluationPlan(toxicity_model=tiny_classifier),
        seed=0,
    )
    trainer = make_trainer(tmp_path, max_epochs=100)
    trainer.fit(module, world.loader(repeats=8))
    with in_float64(module.policy), torch.no_grad():
        now = world.logprobs(module.policy)
        reference = world.reference_logprobs(module.policy)
    best, multiplier = best_within(reference, world.rewards, measure)
    free, _ = optimum(reference, world.rewards, BETA)
    assert (free.exp() * measure).sum(dim=1).mean() < AT_LEAST - 0.4  # the limit costs something
    assert (now.exp() * measure).sum(dim=1).mean() == pytest.approx(AT_LEAST, abs=0.05)
    assert module.multiplier.value == pytest.approx(multiplier, rel=0.2)
    reached, highest = (figures(x, reference, world.rewards, BETA).objective for x in (now, best))
    assert highest - 0.12 < reached < highest + 0.05  # the limit isn't kept to the last digit
    assert kl(now, best) < 0.12 < kl(reference, best) / 4

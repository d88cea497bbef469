"""The best policy is where all estimators come to rest, and ``fit`` comes within 1 % of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import GAE, GRPO, RLOO, AdvantageEstimator, Reinforce
from detox_lightning.algorithm.experience import token_rewards
from numerics import EXACT, in_float64
from proof.fixed_points import tilted, with_kl_in_loss
from proof.training import ESTIMATORS, fit, reached, trainable_world
from proof.world import World, optimum

BETA = 1.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return trainable_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def reference(world: World) -> Tensor:
    """``[p, n, t]`` its tokens' log-probabilities."""
    policy = world.policy(value_head=False)
    with in_float64(policy), torch.no_grad():
        return world.token_logprobs(policy)


def beginnings(world: World, logprobs: Tensor) -> Tensor:
    """``[p, n, t]`` log-probability of each response up to each token."""
    shape = (*logprobs.shape, world.mask.shape[1])
    every = torch.where(world.mask, logprobs.exp()[:, :, None], 0).expand(shape).flatten(1)
    sums = torch.zeros(len(logprobs), int(world.prefixes.max()) + 1, dtype=logprobs.dtype)
    return sums.index_add(1, world.prefixes.flatten(), every)[:, world.prefixes].log()


def at_best(world: World, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Token rewards ``[p, n, t]`` of π*, and what is still to come before each token."""
    best, _ = optimum(reference.sum(dim=2), world.rewards, BETA)
    up_to = beginnings(world, best)
    before = torch.cat([torch.zeros_like(up_to[:, :, :1]), up_to[:, :, :-1]], dim=2)
    kl = torch.where(world.mask, up_to - before - reference, 0)
    rewards = [
        token_rewards(score, row, world.mask, BETA)
        for score, row in zip(world.rewards, kl, strict=True)
    ]
    rest = torch.stack(rewards).flip(2).cumsum(2).flip(2)
    return torch.stack(rewards), torch.where(world.mask, rest, 0)


@pytest.mark.parametrize("estimator", [RLOO(21), GRPO(21, scale=False), Reinforce(21)])
def test_no_response_is_better_than_another_at_the_best(
    world: World, reference: Tensor, estimator: AdvantageEstimator
) -> None:
    """Each is worth β·log Z of its prompt, whatever its length and its reward."""
    for rewards in at_best(world, reference)[0]:
        advantages, _ = estimator(rewards, torch.zeros_like(rewards), world.mask)
        assert advantages.abs().max() < EXACT


def test_gae_has_nothing_to_say_at_the_best_with_the_right_values(
    world: World, reference: Tensor
) -> None:
    """With any λ: no token is better than was expected."""
    for rewards, values in zip(*at_best(world, reference), strict=True):
        assert values.std() > 0.1
        advantages, _ = GAE(1.0, 0.5)(rewards, values, world.mask)
        assert advantages.abs().max() < EXACT


def test_the_distribution_that_a_kl_term_in_the_loss_leads_to() -> None:
    """By hand: β·(1/2)/(λ - 0) + β·(1/2)/(λ - 1) = 1 at λ = (1 + β + √(1 + β²)) / 2."""
    beta = 0.75
    height = (1 + beta + (1 + beta**2) ** 0.5) / 2
    expected = torch.tensor([beta / 2 / height, beta / 2 / (height - 1)], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    found = tilted(half, torch.tensor([0.0, 1.0], dtype=torch.float64), beta)
    torch.testing.assert_close(found, expected)


def test_a_kl_term_in_the_loss_has_another_fixed_point(world: World, reference: Tensor) -> None:
    found = with_kl_in_loss(world, reference, BETA)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(2, dtype=torch.float64))
    figures = reached(world, found, reference.sum(dim=2), BETA)
    assert 0.5 < figures.share < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_comes_within_one_percent(world: World, tmp_path: Path, name: str) -> None:
    trained, untrained = fit(tmp_path, world, BETA, seed=0, rollouts=40, **ESTIMATORS[name])
    figures = reached(world, trained, untrained, BETA)
    assert 0.99 < figures.share <= 1 + EXACT
    highest = optimum(untrained, world.rewards, BETA)[1]
    # β·KL(π‖π*) is what is missing
    assert figures.distance == pytest.approx(float((1 - figures.share) * highest / BETA), abs=1e-4)

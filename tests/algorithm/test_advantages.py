"""Generalized advantage estimation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithm.strategies import batches
from detox_lightning.algorithm.advantages import GAE

MASK = torch.tensor([[True, True, False], [True, False, False]])
REWARDS = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
VALUES = torch.tensor([[0.5, 1.0, 7.0], [4.0, 7.0, 7.0]])


def test_gae_by_hand() -> None:
    """Deltas: 1 + .9 · 1 - .5 = 1.4 and 2 - 1 = 1; and 3 - 4 = -1. Values of padding go unheard."""
    expected = torch.tensor([[1.4 + 0.9 * 0.8 * 1, 1, 0], [-1, 0, 0]])
    advantages, returns = GAE(gamma=0.9, gae_lambda=0.8)(REWARDS, VALUES, MASK)
    assert torch.allclose(advantages, expected)
    assert torch.allclose(returns, expected + torch.where(MASK, VALUES, 0))


def by_definition(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> list[float]:
    """Equation 16 of https://arxiv.org/abs/1506.02438: a sum of discounted deltas."""
    values = [*values, 0.0]
    deltas = [r + gamma * values[i + 1] - values[i] for i, r in enumerate(rewards)]
    return [
        sum((gamma * gae_lambda) ** ahead * delta for ahead, delta in enumerate(deltas[start:]))
        for start in range(len(deltas))
    ]


@given(batches(arrays=2), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_gae_against_its_definition(
    batch: tuple[Tensor, ...], gamma: float, gae_lambda: float, first_token: bool
) -> None:
    mask, rewards, values = batch
    if not first_token:
        mask = mask & (torch.arange(mask.shape[1]) > 0)
    rewards = torch.where(mask, rewards, 0)
    advantages, returns = GAE(gamma, gae_lambda)(rewards, values, mask)
    for row, real in enumerate(mask):
        expected = by_definition(
            rewards[row][real].tolist(), values[row][real].tolist(), gamma, gae_lambda
        )
        assert advantages[row][real].tolist() == pytest.approx(expected, abs=1e-9)
    assert torch.equal(returns[mask], (advantages + values)[mask])
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


@given(batches(arrays=2))
def test_lambda_1_trusts_rewards_and_lambda_0_the_next_value(batch: tuple[Tensor, ...]) -> None:
    mask, rewards, values = batch
    rewards = torch.where(mask, rewards, 0)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    _, returns = GAE(gae_lambda=1.0)(rewards, values, mask)
    assert torch.allclose(returns[mask], to_come[mask], atol=1e-9)
    _, returns = GAE(gae_lambda=0.0)(rewards, values, mask)
    following = torch.nn.functional.pad(torch.where(mask, values, 0)[:, 1:], (0, 1))
    assert torch.allclose(returns[mask], (rewards + following)[mask], atol=1e-9)

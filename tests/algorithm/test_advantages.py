"""Advantage estimators."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithm.ranks import halves, on_ranks
from algorithm.strategies import batches
from detox_lightning.algorithm.advantages import (
    GAE,
    GRPO,
    RLOO,
    Reinforce,
    batch_baseline,
    gae,
    group_relative,
    leave_one_out,
    spread,
)
from detox_lightning.errors import InputError

MASK = torch.tensor([[True, True, False], [True, False, False]])
REWARDS = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
VALUES = torch.tensor([[0.5, 1.0, 7.0], [4.0, 7.0, 7.0]])


def test_gae_by_hand() -> None:
    """Deltas: 1 + .9 · 1 - .5 = 1.4 and 2 - 1 = 1; and 3 - 4 = -1. Values of padding go unheard."""
    expected = torch.tensor([[1.4 + 0.9 * 0.8 * 1, 1, 0], [-1, 0, 0]])
    for advantages, returns in (
        gae(REWARDS, VALUES, MASK, gamma=0.9, gae_lambda=0.8),
        GAE(gamma=0.9, gae_lambda=0.8)(REWARDS, VALUES, MASK),
    ):
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
    advantages, returns = gae(rewards, values, mask, gamma, gae_lambda)
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
    _, returns = gae(rewards, values, mask, gae_lambda=1.0)
    assert torch.allclose(returns[mask], to_come[mask], atol=1e-9)
    _, returns = gae(rewards, values, mask, gae_lambda=0.0)
    following = torch.nn.functional.pad(torch.where(mask, values, 0)[:, 1:], (0, 1))
    assert torch.allclose(returns[mask], (rewards + following)[mask], atol=1e-9)


TOTALS = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])  # three responses to each of two prompts


def test_leave_one_out() -> None:
    expected = [1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0]
    assert leave_one_out(TOTALS, 3).tolist() == pytest.approx(expected)


def test_group_relative() -> None:
    centred = [-2, -1, 3, 0, 0, 0]
    assert group_relative(TOTALS, 3, scale=False).tolist() == pytest.approx(centred)
    scaled = [x / (7**0.5 + 1e-4) for x in centred]
    assert group_relative(TOTALS, 3).tolist() == pytest.approx(scaled)


def test_batch_baseline() -> None:
    assert batch_baseline(TOTALS).tolist() == pytest.approx([-3, -2, 2, 1, 1, 1])
    for first in (1, 4):
        ranks = on_ranks(batch_baseline, halves(TOTALS, first=first))
        assert torch.allclose(torch.cat(ranks), batch_baseline(TOTALS))


def test_spread() -> None:
    advantages, returns = spread(torch.tensor([2.0, 3.0]), MASK)
    assert advantages.tolist() == [[2, 2, 0], [3, 0, 0]]
    assert returns.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("estimator", "responses", "expected"),
    [
        (RLOO(2), 2, [1 + 2 - 3, 3 - 3]),
        (GRPO(2, scale=False), 2, [0, 0]),
        (Reinforce(), 1, [0, 0]),
    ],
    ids=["RLOO", "GRPO", "Reinforce"],
)
def test_a_response_counts_as_a_whole(estimator, responses: int, expected: list[float]) -> None:
    """Rewards of 1 + 2 and of 3: no better and no worse than one another."""
    assert estimator.responses_per_prompt == responses
    assert not estimator.uses_values
    advantages, _ = estimator(REWARDS, torch.zeros_like(VALUES), MASK)
    assert torch.allclose(advantages, spread(torch.tensor(expected).float(), MASK)[0])
    more = REWARDS + torch.tensor([[0.5], [0.0]]) * MASK  # 4 and 3
    advantages, _ = estimator(more, torch.zeros_like(VALUES), MASK)
    better = 1.0 if isinstance(estimator, RLOO) else 0.5
    assert torch.allclose(advantages, spread(torch.tensor([better, -better]), MASK)[0])


@pytest.mark.parametrize("estimator", [RLOO, GRPO])
def test_one_response_has_nothing_to_be_compared_with(estimator) -> None:
    with pytest.raises(InputError, match=r"advantage.k=1"):
        estimator(1)

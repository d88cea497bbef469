"""RLOO, GRPO and REINFORCE by hand: two prompts with two or three responses each."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import (
    GDPO,
    GRPO,
    RLOO,
    AdvantageEstimator,
    BestOfK,
    Quantile,
    Reinforce,
    TokenRLOO,
)
from detox_lightning.algorithm.masks import Reduce, alone
from detox_lightning.errors import InputError

TOTALS = torch.tensor([1.0, 2.0, 6.0, -1.0, -1.0, 2.0])


def advantages_of(estimator: AdvantageEstimator, totals: Tensor, reduce: Reduce = alone) -> Tensor:
    """Of responses of one token each."""
    rewards = totals[:, None]
    mask = torch.ones_like(rewards).bool()
    return estimator(rewards, torch.zeros_like(rewards), mask, reduce)[0][:, 0]


def test_leave_one_out_is_reward_less_mean_of_the_others() -> None:
    expected = [1 - 4, 2 - 3.5, 6 - 1.5, -1 - 0.5, -1 - 0.5, 2 + 1]
    torch.testing.assert_close(advantages_of(RLOO(3), TOTALS), torch.tensor(expected))


def test_group_relative_is_standardized_in_each_group() -> None:
    stds = [7**0.5, 3**0.5]  # of 1, 2, 6 around 3 and of -1, -1, 2 around 0, divided by n - 1
    expected = [-2 / stds[0], -1 / stds[0], 3 / stds[0], -1 / stds[1], -1 / stds[1], 2 / stds[1]]
    scaled = advantages_of(GRPO(3), TOTALS)
    torch.testing.assert_close(scaled, torch.tensor(expected), rtol=2e-4, atol=0)
    centred = advantages_of(GRPO(3, scale=False), TOTALS)
    torch.testing.assert_close(centred, torch.tensor([-2.0, -1, 3, -1, -1, 2]))


def test_parts_are_standardized_before_they_are_weighted() -> None:
    """Of three responses to each of two prompts; one part is a thousand times the other."""
    large, small = 1000 * TOTALS, torch.tensor([0.0, 1, 2, 3, 1, 2])
    found = GDPO(3).scores(
        torch.zeros(6), {"a": large, "b": small}, lambda parts: parts["a"] - 0.5 * parts["b"]
    )
    a = [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5, -1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5]
    expected = torch.tensor(a) - 0.5 * torch.tensor([-1.0, 0, 1, 1, -1, 0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert GDPO(3).whitens
    # the KL penalty joins the sum, and is compared within each prompt
    totals = found - torch.tensor([0.0, 0, 3, 1, 1, 1])
    centred = expected - torch.tensor([-1.0, -1, 2, 0, 0, 0])
    torch.testing.assert_close(advantages_of(GDPO(3), totals), centred, rtol=0, atol=2e-4)
    assert GRPO(3).scores(TOTALS, {}, torch.stack) is TOTALS


def test_best_of_k_scores_the_best_response_alone() -> None:
    """Two that are equally good share the 1; RLOO compares the scores."""
    totals = torch.tensor([1.0, 2.0, 6.0, 2.0, -1.0, 2.0])
    found = BestOfK(3).scores(totals, {}, torch.stack)
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 1, 0.5, 0, 0.5]))
    expected = torch.tensor([-0.5, -0.5, 1.0, 0.25, -0.5, 0.25])
    torch.testing.assert_close(advantages_of(BestOfK(3), found), expected)


def test_quantiles_are_ranks_whatever_the_scale() -> None:
    """Of four responses, 1/8, 3/8, 5/8 and 7/8; ties lie in the middle of theirs."""
    totals = torch.tensor([2.0, 9.0, -4.0, 3.0, 1.0, 0.0, 1.0, 5.0])
    found = Quantile(4).scores(totals, {}, torch.stack)
    shares = torch.tensor([3.0, 7, 1, 5, 4, 1, 4, 7]) / 8
    torch.testing.assert_close(found, shares.log())
    torch.testing.assert_close(Quantile(4).scores(1000 * totals - 7, {}, torch.stack), found)


@pytest.mark.parametrize(
    ("gae_lambda", "sums"),
    [(1.0, [[3.0, 2, 0], [3, 4, 3]]), (0.5, [[2.0, 2, 0], [0.25, 2.5, 3]])],
)
def test_a_token_is_compared_by_what_follows_it(gae_lambda: float, sums: list[Any]) -> None:
    """With the same place in the other response; one that has ended earns nothing more."""
    rewards = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 1.0, 3.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    advantages, returns = TokenRLOO(2, gae_lambda)(rewards, torch.ones(2, 3), mask)
    first, second = torch.tensor(sums)
    expected = torch.stack([first - second, second - first]).where(mask, 0)
    torch.testing.assert_close(advantages, expected)
    assert not returns.any()


def test_group_of_equal_rewards_has_no_advantage() -> None:
    assert torch.equal(advantages_of(GRPO(2), torch.full((4,), 2.5)), torch.zeros(4))
    assert torch.equal(advantages_of(RLOO(4), torch.full((4,), 2.5)), torch.zeros(4))


def test_batch_baseline_is_the_mean_over_all_ranks() -> None:
    torch.testing.assert_close(advantages_of(Reinforce(), TOTALS), TOTALS - 1.5)

    def with_another_rank(sums: Tensor) -> Tensor:  # whose two responses have reward 9 in all
        return sums + torch.tensor([9.0, 2.0])

    of_both = advantages_of(Reinforce(), TOTALS, with_another_rank)
    torch.testing.assert_close(of_both, TOTALS - 18 / 8)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (RLOO(2), [-2.0, 2.0]),
        (GRPO(2, scale=False), [-1.0, 1.0]),
        (Reinforce(), [-1.0, 1.0]),
    ],
)
def test_every_token_gets_its_responses_advantage(
    estimator: AdvantageEstimator, expected: list[float]
) -> None:
    rewards = torch.tensor([[0.5, 0.5, 0.0], [-1.0, 1.0, 3.0]])  # 1 and 3 in all
    mask = torch.tensor([[True, True, False], [True, True, True]])
    values = torch.full((2, 3), 7.0)  # of a head that isn't asked
    advantages, returns = estimator(rewards, values, mask)
    wanted = torch.where(mask, torch.tensor(expected)[:, None], 0)
    torch.testing.assert_close(advantages, wanted)
    assert torch.equal(returns, torch.zeros(2, 3))
    assert not estimator.uses_values


@pytest.mark.parametrize("estimator", [RLOO, GRPO])
def test_one_response_has_nothing_to_be_compared_with(estimator: type) -> None:
    with pytest.raises(InputError, match=r"advantage\.k=1: .* give 2 or more"):
        estimator(k=1)

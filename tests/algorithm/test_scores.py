"""Scores of responses, and the rewards of their tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithm.ranks import halves, on_ranks
from algorithm.strategies import numbers
from detox_lightning.algorithm.experience import (
    RunningMoments,
    ScoreShaping,
    shape_scores,
    token_rewards,
)

SCORES = torch.tensor([1.0, -2.0, 4.0])
MOMENTS = RunningMoments(count=5.0, mean=1.0, variance=3.2)  # standard deviation 2


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        (ScoreShaping(), [1, -2, 4]),
        (ScoreShaping(scale=True), [0.5, -1, 2]),
        (ScoreShaping(scale=True, normalize=True), [0, -1.5, 1.5]),
        (ScoreShaping(clip=1.5), [1, -1.5, 1.5]),
        (ScoreShaping(scale=True, normalize=True, clip=1.0), [0, -1, 1]),
    ],
)
def test_shape_scores(shaping: ScoreShaping, expected: list[float]) -> None:
    shaped = shape_scores(SCORES, shaping, MOMENTS)
    assert shaped.tolist() == pytest.approx(expected, abs=1e-6)
    assert SCORES.tolist() == [1, -2, 4]


def test_a_mean_is_subtracted_only_in_units_of_the_deviation() -> None:
    with pytest.raises(ValueError, match=r"normalize=true needs .*scale=true"):
        ScoreShaping(normalize=True)


def test_token_rewards() -> None:
    """The KL's cost at each token, the score at the last: EOS, or where the limit cut it off."""
    kl = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0, 40.0]), kl, mask, kl_coef=0.1)
    expected = [[-0.1, 9.8, 0], [-0.1, -0.2, 19.7], [29.9, 0, 0], [0, 0, 0]]
    assert torch.allclose(rewards, torch.tensor(expected))


def test_what_tokens_earned_is_theirs_and_the_last_gets_the_rest() -> None:
    kl = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    earned = torch.tensor([[4.0, 6.0, torch.nan], [5.0, -2.0, 0.0], [1.0, 9.0, 9.0]])
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, 0.1, earned)
    expected = [[3.9, 5.8, 0], [4.9, -2.2, 16.7], [29.9, 0, 0]]
    assert torch.allclose(rewards, torch.tensor(expected))
    plain = token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, 0.1)
    assert torch.allclose(rewards.sum(dim=1), plain.sum(dim=1))


def test_moments_by_hand() -> None:
    moments = RunningMoments()
    moments.update(torch.tensor([1.0, 2.0]))
    moments.update(torch.tensor([6.0]))
    assert (moments.count, moments.mean) == (3, pytest.approx(3))
    assert moments.variance == pytest.approx(14 / 3)
    assert moments.std == pytest.approx(7**0.5)


@given(st.lists(st.integers(1, 6).flatmap(numbers), min_size=1, max_size=4))
def test_moments_against_numpy(rollouts: list[list[float]]) -> None:
    moments, seen = RunningMoments(), []
    for scores in rollouts:
        moments.update(torch.tensor(scores))
        seen += scores
        assert moments.count == len(seen)
        assert moments.mean == pytest.approx(np.mean(seen), abs=1e-9)
        assert moments.variance == pytest.approx(np.var(seen), abs=1e-9)
        if len(seen) > 1:
            assert moments.std == pytest.approx(np.std(seen, ddof=1), abs=1e-6)


@pytest.mark.parametrize("first", [1, 2])
def test_two_ranks_see_all_scores(first: int) -> None:
    def update(scores: torch.Tensor, reduce) -> RunningMoments:
        moments = RunningMoments(count=4, mean=0.5, variance=2.0)
        moments.update(scores, reduce)
        return moments

    one, other = on_ranks(update, halves(SCORES, first=first))
    whole = update(SCORES, lambda x: x)
    assert one == other
    assert one.mean == pytest.approx(whole.mean)
    assert one.variance == pytest.approx(whole.variance)

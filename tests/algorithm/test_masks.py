"""Masks, and statistics over real tokens."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

from algorithm.ranks import halves, on_ranks
from algorithm.strategies import batches
from detox_lightning.algorithm.masks import (
    alone,
    is_any,
    mask_from_lengths,
    masked_moments,
    masked_sum,
    response_lengths,
    whiten,
    widths,
)

EOS = 1
NAN = float("nan")
X = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("response", "length"),
    [
        ([5, 6, 1, 0], 3),  # EOS counts
        ([5, 6, 7, 8], 4),  # cut off by the length limit
        ([1, 0, 0, 0], 1),  # nothing but an EOS
        ([5, 1, 1, 9], 2),  # what follows the first EOS doesn't
        ([0, 0, 1, 0], 3),  # T5's pad is a token like any other
        ([0, 0, 0, 0], 4),
    ],
)
def test_response_lengths(response: list[int], length: int) -> None:
    assert response_lengths(torch.tensor([response]), [EOS]).tolist() == [length]


def test_the_first_of_several_ends_is_the_end() -> None:
    responses = torch.tensor([[5, 7, 1, 0], [5, 1, 7, 7], [5, 6, 7, 0], [5, 6, 8, 9]])
    assert response_lengths(responses, [1, 7]).tolist() == [2, 2, 3, 4]
    assert response_lengths(responses, []).tolist() == [4, 4, 4, 4]
    assert is_any(responses, [1, 7]).sum(dim=1).tolist() == [2, 3, 1, 0]


def test_mask_from_lengths() -> None:
    lengths = torch.tensor([3, 1, 0])
    mask = mask_from_lengths(lengths, 4)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_statistics() -> None:
    """Of 1, 2 and 6."""
    assert masked_sum(X, MASK) == 9
    mean, variance, count = masked_moments(X, MASK)
    assert (float(mean), float(variance), float(count)) == (3, pytest.approx(14 / 3), 3)


def test_whiten() -> None:
    """1, 2 and 6 have mean 3 and, with Bessel's correction, variance 7."""
    expected = torch.tensor([[-2, -1, 0], [3, 0, 0]]) / 7**0.5
    assert torch.allclose(whiten(X, MASK), expected)
    kept = torch.where(MASK, expected + 3, 0)
    assert torch.allclose(whiten(X, MASK, shift_mean=False), kept)


def test_where_there_is_nothing_to_go_by() -> None:
    nothing = torch.zeros_like(MASK)
    assert [float(moment) for moment in masked_moments(X, nothing)] == [0, 0, 1]
    assert whiten(X, nothing).tolist() == [[0] * 3] * 2
    single = MASK & (X == 6)
    assert whiten(X, single).tolist() == [[0] * 3] * 2
    assert whiten(X, single, shift_mean=False).tolist() == [[0, 0, 0], [6, 0, 0]]


def test_alone_a_tensor_is_its_own_sum() -> None:
    assert alone(X) is X


@given(batches())
def test_statistics_against_loops(batch: tuple[Tensor, Tensor]) -> None:
    mask, x = batch
    positions = itertools.product(range(x.shape[0]), range(x.shape[1]))
    values = [float(x[i, j]) for i, j in positions if mask[i, j]]
    assert float(masked_sum(x, mask)) == pytest.approx(sum(values), abs=1e-9)
    mean, variance, count = (float(moment) for moment in masked_moments(x, mask))
    assert count == max(len(values), 1)
    if values:
        assert mean == pytest.approx(np.mean(values), abs=1e-9)
        assert variance == pytest.approx(np.var(values), abs=1e-9)


@given(batches())
def test_whitened_tokens_have_mean_0_and_variance_1(batch: tuple[Tensor, Tensor]) -> None:
    mask, x = batch
    assume(mask.sum() > 1)
    assume(x[mask].var() > 1e-3)
    whitened = whiten(x, mask)
    assert float(whitened[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(whitened[mask].var()) == pytest.approx(1, abs=1e-4)
    assert (whitened[~mask] == 0).all()
    kept = whiten(x, mask, shift_mean=False)[mask]
    assert float(kept.mean()) == pytest.approx(float(x[mask].mean()), abs=1e-6)
    assert float(kept.var()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("shift_mean", [True, False])
def test_two_ranks_whiten_as_one(first: int, shift_mean: bool) -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    mask = mask_from_lengths(torch.tensor([7, 2, 0, 4, 1]), 7)
    parts = halves(x, mask, first=first)
    whitened = on_ranks(lambda x, mask, reduce: whiten(x, mask, shift_mean, reduce), parts)
    assert torch.allclose(torch.cat(whitened), whiten(x, mask, shift_mean), atol=1e-6)
    means = [float(mean) for mean, _, _ in on_ranks(masked_moments, parts)]
    assert means == pytest.approx([float(masked_moments(x, mask)[0])] * 2)


def test_widths_go_up_to_the_last_real_position() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    assert widths(mask).tolist() == [3, 4, 0, 1]

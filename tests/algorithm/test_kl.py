"""Estimates of the KL divergence, and the controller."""

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from algorithm.strategies import matrices
from detox_lightning.algorithm.kl import Estimator, KLPenalty, full_kl, kl_estimate

SAMPLED: list[Estimator] = ["k1", "abs", "k2", "k3"]
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("estimator", "likelier", "less_likely"),
    [
        ("k1", LN2, -LN2),
        ("abs", LN2, LN2),
        ("k2", 0.5 * LN2**2, 0.5 * LN2**2),
        ("k3", 0.5 - 1 + LN2, 2 - 1 - LN2),
    ],
)
def test_estimates(estimator: Estimator, likelier: float, less_likely: float) -> None:
    """Of tokens twice and half as likely as under the reference."""
    logprobs = torch.tensor([[0.5, 0.25]]).log()
    ref_logprobs = torch.tensor([[0.25, 0.5]]).log()
    ours = kl_estimate(logprobs, ref_logprobs, estimator)
    assert torch.allclose(ours, torch.tensor([[likelier, less_likely]]))


def test_full_needs_logits() -> None:
    with pytest.raises(ValueError, match="full"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), "full")


def test_full_kl() -> None:
    p = torch.tensor([0.5, 0.5]).log()[None, None] + 3
    q = torch.tensor([0.25, 0.75]).log()[None, None] - 2
    assert float(full_kl(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_full_kl_where_a_token_is_forbidden() -> None:
    """By the minimum length, under both."""
    forbidden = torch.full((1, 1, 1), -torch.inf)
    p, q = torch.randn(1, 1, 4), torch.randn(1, 1, 4)
    both = [torch.cat([x, forbidden], dim=-1) for x in (p, q)]
    assert torch.allclose(full_kl(*both), full_kl(p, q))


@given(matrices(2, 3, high=0), matrices(2, 3, high=0))
def test_estimates_that_are_never_negative(logprobs: Tensor, ref_logprobs: Tensor) -> None:
    for dtype in (torch.float64, torch.float32):
        pair = logprobs.to(dtype), ref_logprobs.to(dtype)
        for estimator in ("abs", "k2", "k3"):
            assert (kl_estimate(*pair, estimator) >= 0).all()
        for estimator in SAMPLED:
            assert (kl_estimate(pair[0], pair[0], estimator) == 0).all()


@given(matrices(2, 5), matrices(2, 5))
def test_full_kl_is_what_k1_and_k3_estimate(logits: Tensor, ref_logits: Tensor) -> None:
    """Their expectation under the policy; and it is never negative."""
    full = full_kl(logits[None], ref_logits[None])[0]
    logprobs, ref_logprobs = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    for estimator in ("k1", "k3"):
        expected = (logprobs.exp() * kl_estimate(logprobs, ref_logprobs, estimator)).sum(-1)
        assert torch.allclose(expected, full, atol=1e-9)
    assert (full >= -1e-12).all()
    assert torch.allclose(full_kl(logits[None], logits[None] + 1), torch.zeros(1, 2).double())


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (6.0, 1),  # on target
        (5.7, 1 - 0.05 * 8 / 1000),
        (6.6, 1 + 0.1 * 8 / 1000),
        (60.0, 1 + 0.2 * 8 / 1000),  # the error is clipped
        (-1.0, 1 - 0.2 * 8 / 1000),
    ],
)
def test_controller(kl: float, factor: float) -> None:
    penalty = KLPenalty(target=6.0, horizon=1000)
    assert penalty.next_coef(0.3, kl, responses=8) == pytest.approx(0.3 * factor, abs=1e-12)


def test_without_a_target_the_coefficient_stays() -> None:
    assert KLPenalty(target=None).next_coef(0.3, 100.0, responses=8) == 0.3

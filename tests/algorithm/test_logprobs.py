"""Log-probabilities under the sampler's distribution."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithm.strategies import matrices
from detox_lightning.algorithm.logprobs import entropy_of, sampler_logits, token_logprobs

EOS = 1
INF = float("inf")
HALVES = torch.tensor([0.5, 0.25, 0.25]).log()[None, None] + 7  # [1, 1, 3], of any offset


def test_nothing_to_do_costs_nothing() -> None:
    logits = torch.randn(2, 3, 4)
    assert sampler_logits(logits) is logits
    assert sampler_logits(logits.bfloat16()).dtype == torch.float32


def test_temperature() -> None:
    logits = torch.tensor([[[1.0, 2.0, 4.0]]])
    assert sampler_logits(logits, temperature=2.0).tolist() == [[[0.5, 1, 2]]]


def test_no_eos_before_the_minimum_length() -> None:
    logits = torch.zeros(1, 3, 3)
    assert sampler_logits(logits, min_new_tokens=2, eos_token_ids=[EOS]).tolist() == [
        [[0, -INF, 0], [0, -INF, 0], [0, 0, 0]]
    ]
    assert sampler_logits(logits, min_new_tokens=9, eos_token_ids=[EOS])[0, 2, EOS] == -INF
    assert (logits == 0).all()  # the input stays as it is


def test_token_logprobs() -> None:
    logits = HALVES.expand(2, 2, 3)
    tokens = torch.tensor([[0, 1], [2, 0]])
    expected = torch.tensor([[0.5, 0.25], [0.25, 0.5]]).log()
    assert torch.allclose(token_logprobs(logits, tokens), expected)


def test_entropy() -> None:
    assert float(entropy_of(HALVES)) == pytest.approx(1.5 * math.log(2))
    assert float(entropy_of(torch.zeros(1, 1, 5))) == pytest.approx(math.log(5))
    assert float(entropy_of(torch.tensor([[[3.0, -INF, -INF]]]))) == 0


@pytest.mark.parametrize("impossible", [-INF, -200.0])
def test_entropy_has_a_gradient_where_a_token_is_impossible(impossible: float) -> None:
    """Forbidden by a minimum length, or so unlikely that its probability rounds to 0."""
    logits = torch.tensor([[[0.3, -0.2, impossible]]], requires_grad=True)
    possible = torch.tensor([[[0.3, -0.2]]], requires_grad=True)
    for x in (logits, possible):
        entropy_of(x).sum().backward()
    assert torch.allclose(logits.grad[..., :2], possible.grad)
    assert logits.grad[..., 2] == 0


@given(matrices(3, 4, low=-50, high=50), st.floats(0.1, 5), st.integers(0, 3))
def test_they_are_logs_of_a_distribution(
    logits: Tensor, temperature: float, min_new_tokens: int
) -> None:
    logits = sampler_logits(logits[None], temperature, min_new_tokens, [EOS])
    tokens = torch.arange(4).expand(1, 3, 4)
    logprobs = torch.stack([token_logprobs(logits, tokens[..., v]) for v in range(4)], dim=-1)
    assert torch.allclose(logprobs, logits.log_softmax(-1), atol=1e-5)
    assert torch.allclose(logprobs.exp().sum(-1), torch.ones(1, 3), atol=1e-5)
    surprise = torch.where(logprobs.isneginf(), 0, -logprobs * logprobs.exp()).sum(-1)
    assert torch.allclose(entropy_of(logits), surprise, atol=1e-5)
    assert (entropy_of(logits) >= 0).all()
    assert (entropy_of(logits) <= math.log(4) + 1e-6).all()

"""What the head gives without keeping logits is what logits give."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from detox_lightning.algorithm import logprobs as module
from detox_lightning.algorithm.logprobs import (
    entropy_of,
    head_output,
    sampler_logits,
    token_logprobs,
)
from numerics import EXACT, in_float64, rounding

B, T, D, V = 5, 7, 16, 50
HEAD = rounding(V, size=20)  # a sum over the words, of logits of up to 20 or so
SAMPLERS = [(1.0, 0, [1]), (0.7, 3, [1]), (0.7, 3, [1, 7])]


def inputs(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator)
    tokens = torch.randint(2, V, (B, T), generator=generator)
    return hidden, weight, torch.randn(V, generator=generator) if bias else None, tokens


def wide(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [1, 9, B * T])
def test_it_is_what_logits_give(
    sampler: tuple[float, int, list[int]],
    bias: bool,
    positions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(module.AT_ONCE, "cpu", positions * V)
    hidden, weight, more, tokens = (None if x is None else wide(x) for x in inputs(bias))
    with in_float64():
        logits = sampler_logits(linear(hidden, weight, more), *sampler)
        expected = token_logprobs(logits, tokens), entropy_of(logits)
        ours = head_output(hidden, weight, more, tokens, *sampler, entropy_gradient=True)
        for x, y in zip(ours, expected, strict=True):
            torch.testing.assert_close(x, y, atol=EXACT, rtol=EXACT)
        share = torch.arange(float(B * T)).view(B, T)
        for x, y in zip(ours, expected, strict=True):
            gradients = [
                torch.autograd.grad((z * share).sum(), hidden, retain_graph=True)[0] for z in (x, y)
            ]
            assert gradients[1].abs().max() > 1
            torch.testing.assert_close(*gradients, atol=EXACT, rtol=EXACT)


def test_no_logits_are_kept() -> None:
    hidden, weight, bias, tokens = inputs(True)
    sizes: list[int] = []

    def noted(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda x: x):
        logprobs, entropies = head_output(hidden, weight, bias, tokens)
    assert sizes == [B * T * D]
    assert logprobs.requires_grad
    assert not entropies.requires_grad


def test_under_autocast_the_sums_are_exact() -> None:
    """As they are with logits: only the head's own product is rounded."""
    hidden, weight, _, tokens = inputs(False)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, entropies = head_output(hidden, weight, None, tokens)
        logits = sampler_logits(linear(hidden, weight))
    assert logprobs.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(logprobs, token_logprobs(logits, tokens), atol=HEAD, rtol=0)
    torch.testing.assert_close(entropies, entropy_of(logits), atol=HEAD, rtol=0)


def test_the_entropy_s_gradient_is_exact_in_half_precision() -> None:
    """The head's rows have much in common, as in real models."""
    hidden, weight, _, tokens = inputs(False)
    weight = (weight + 3 * torch.randn(D, generator=torch.Generator().manual_seed(1))).bfloat16()
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        x = hidden.detach().to(dtype).requires_grad_()
        _, entropies = head_output(x, weight.to(dtype), None, tokens, entropy_gradient=True)
        gradients.append(torch.autograd.grad(entropies.sum(), x)[0].float())
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[0].norm()

"""Log-probabilities and entropies straight from hidden states, without keeping ``[b, t, V]``.

A language model's head is a matrix ``W`` of ``[V, d]``: logits are ``W h``. For a frozen head the
gradients of a token's log-probability and of the entropy ``H`` are known as soon as the logits are,

    d log p(token) / dh = W[token] - Σ p_v W[v]        d H / dh = -Σ p_v (log p_v + H) W[v]

(divided by the temperature), so the forward pass notes them, ``[b, t, d]`` each, and no logits are
needed for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from detox_lightning.algorithm.logprobs import sampler_logits

AT_ONCE = 2**23  # logits


class HeadOutput(torch.autograd.Function):
    """See :func:`head_output`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
        min_new_tokens: int,
        eos_token_id: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """Works through the batch a few rows at a time."""
        wanted = ctx.needs_input_grad[0]
        sampler = temperature, min_new_tokens, eos_token_id
        rows = max(1, AT_ONCE // (hidden.shape[1] * len(weight)))
        found = [
            some_rows(h, weight, bias, chosen, sampler, wanted, wanted and entropy_gradient)
            for h, chosen in zip(hidden.split(rows), tokens.split(rows), strict=True)
        ]
        logprobs, entropies, *gradients = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(*gradients)
        ctx.dtype = hidden.dtype
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """What was noted, times what comes in."""
        total: Any = sum(g[..., None] * d for g, d in zip(grads, ctx.saved_tensors, strict=False))
        return total.to(ctx.dtype), *[None] * 7


def some_rows(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    sampler: tuple[float, int, int],
    gradient: bool,
    entropy_gradient: bool,
) -> list[Tensor]:
    """What :func:`head_output` gives for some rows, and gradients ``[b, t, d]`` if wanted.

    At most two tensors of the logits' size in float32 are there at once, and one of ``weight``'s.

    Args:
        hidden: See :func:`head_output`.
        weight: Likewise.
        bias: Likewise.
        tokens: Likewise.
        sampler: Temperature, least length and EOS.
        gradient: Whether to give the log-probabilities'.
        entropy_gradient: Whether to give the entropies'.
    """
    logprobs = sampler_logits(linear(hidden, weight, bias), *sampler).log_softmax(dim=-1)
    chosen = logprobs.gather(-1, tokens[..., None])[..., 0]
    p = logprobs.exp()
    if sampler[1]:
        logprobs.masked_fill_(logprobs.isneginf(), 0)
    terms = logprobs.mul_(p)
    entropy = -terms.sum(dim=-1)  # no product of matrices: autocast would make it less exact
    found = [chosen, entropy]
    if gradient:
        found.append((weight[tokens] - p.to(weight.dtype) @ weight) / sampler[0])
    if entropy_gradient:
        p.mul_(entropy[..., None]).add_(terms)
        found.append(p.to(weight.dtype) @ weight / -sampler[0])
    return found


def head_output(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float = 1.0,
    min_new_tokens: int = 0,
    eos_token_id: int = 1,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens and entropies, under the sampler's distribution.

    Args:
        hidden: ``[b, t, d]`` what the head is given.
        weight: ``[V, d]`` the head's; frozen.
        bias: ``[V]``, or None; frozen.
        tokens: ``[b, t]``.
        temperature: See :func:`sampler_logits`.
        min_new_tokens: Likewise.
        eos_token_id: Likewise.
        entropy_gradient: Whether the entropy has a gradient.

    Returns:
        Both ``[b, t]`` float32, entropies in nats. Gradients reach ``hidden`` alone.
    """
    output: tuple[Tensor, Tensor] = HeadOutput.apply(
        hidden,
        weight,
        bias,
        tokens,
        temperature,
        min_new_tokens,
        eos_token_id,
        entropy_gradient,
    )
    return output

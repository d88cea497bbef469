"""Log-probabilities of sampled tokens, and entropies, under the sampler's own distribution.

The sampler may draw at a temperature and forbid EOS before a minimum length; the same transform is
applied to the logits here, so that the ratio of new to old probability is exactly 1 before the
first update. :func:`head_output` computes both straight from hidden states.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

AT_ONCE = {"cpu": 2**22, "cuda": 2**26}  # logits computed at once; they fit into a CPU's cache


def sampler_logits(
    logits: Tensor,
    temperature: float = 1.0,
    min_new_tokens: int = 0,
    eos_token_ids: Sequence[int] = (1,),
) -> Tensor:
    """Logits as the sampler saw them, in float32.

    Args:
        logits: ``[b, t, V]`` for the response positions, from the first.
        temperature: Divides the logits.
        min_new_tokens: EOS is impossible at the positions before this one.
        eos_token_ids: The tokens that end a response.

    Returns:
        ``[b, t, V]`` float32; the input itself if nothing changes.
    """
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    if min_new_tokens > 0:
        logits = logits.clone()
        for token in eos_token_ids:
            logits[:, :min_new_tokens, token] = -torch.inf
    return logits


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities ``[b, t]`` of ``tokens`` (``[b, t]``) under ``logits`` (``[b, t, V]``)."""
    chosen = logits.gather(-1, tokens[..., None]).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def entropy_of(logits: Tensor) -> Tensor:
    """Entropies ``[b, t]`` of the distributions of ``logits`` (``[b, t, V]``), in nats.

    A logit of -inf is a probability of 0, for which the gradient is finite, too.
    """
    logprobs = logits.log_softmax(dim=-1)
    terms = logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0)
    return -terms.sum(dim=-1)


def head_output(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float = 1.0,
    min_new_tokens: int = 0,
    eos_token_ids: Sequence[int] = (1,),
    entropy: bool = True,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Computes log-probabilities and entropies from hidden states, without keeping all logits.

    Args:
        hidden: ``[b, t, d]`` input of the head.
        weight: ``[V, d]`` weight of the head; frozen.
        bias: ``[V]`` bias of the head, or None; frozen.
        tokens: ``[b, t]``.
        temperature: Divides the logits.
        min_new_tokens: EOS is impossible at the positions before this one.
        eos_token_ids: The tokens that end a response.
        entropy: Whether to compute entropies; else they are 0.
        entropy_gradient: Whether the entropy has a gradient.

    Returns:
        Both ``[b, t]`` float32, entropies in nats. Gradients reach ``hidden`` alone.
    """
    sampler = temperature, min_new_tokens, eos_token_ids
    output: tuple[Tensor, Tensor] = _HeadOutput.apply(
        hidden, weight, bias, tokens, sampler, entropy, entropy_gradient
    )
    return output


class _HeadOutput(torch.autograd.Function):
    """The head as one operation of autograd, with gradients from the forward pass.

    Logits are ``W h`` for the head's weight ``W`` (``[V, d]``). If it is frozen, the gradients of a
    token's log-probability and of the entropy ``H`` are known as soon as the logits are,

        d log p(token) / dh = W[token] - Σ p_v W[v]        d H / dh = -Σ p_v (log p_v + H) W[v]

    (divided by the temperature), so the forward pass keeps them, ``[b, t, d]`` each, and the
    backward pass needs no logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        sampler: tuple[float, int, Sequence[int]],
        entropy: bool,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """Gives log-probabilities and entropies, ``[b, t]`` each; keeps gradients ``[b, t, d]``."""
        temperature, min_new_tokens, eos_token_ids = sampler
        learns = ctx.needs_input_grad[0]
        wanted = (entropy or entropy_gradient, learns, learns and entropy_gradient)
        early = torch.arange(tokens.shape[1], device=tokens.device) < min_new_tokens
        flat = hidden.flatten(0, 1), tokens.flatten(), early.expand_as(tokens).flatten()
        size = max(1, AT_ONCE.get(hidden.device.type, AT_ONCE["cuda"]) // len(weight))
        found = []
        for x, chosen, is_early in zip(*(part.split(size) for part in flat), strict=True):
            logits = linear(x, weight, bias).float()
            if temperature != 1:
                logits /= temperature
            for token in eos_token_ids if min_new_tokens else ():
                logits[:, token].masked_fill_(is_early, -torch.inf)
            found.append(_some_positions(logits, weight, chosen, *wanted))
        logprobs, entropies, *sums = (
            torch.cat(parts).unflatten(0, tokens.shape) for parts in zip(*found, strict=True)
        )
        ctx.save_for_backward(*(x.div_(temperature) for x in sums))
        ctx.dtype = hidden.dtype
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Multiplies the kept gradients by the incoming ones, ``[b, t]`` each."""
        total: Any = sum(g[..., None] * d for g, d in zip(grads, ctx.saved_tensors, strict=False))
        return total.to(ctx.dtype), *[None] * 6


def _some_positions(
    logits: Tensor,
    weight: Tensor,
    tokens: Tensor,
    with_entropy: bool,
    with_gradient: bool,
    with_entropy_gradient: bool,
) -> list[Tensor]:
    """Computes the outputs of some positions, and overwrites their logits ``[n, V]``.

    Returns:
        Log-probabilities ``[n]``; entropies ``[n]``, 0 if they were not requested; and the
        requested gradients of both, ``[n, d]``.
    """
    logits -= logits.amax(dim=-1, keepdim=True)
    chosen = logits.gather(-1, tokens[:, None])
    entropy = torch.zeros_like(chosen)
    e = logits.exp() if with_entropy else logits.exp_()
    total = e.sum(dim=-1, keepdim=True)
    if with_entropy:
        terms = logits.masked_fill_(e == 0, 0).mul_(e)
        entropy = total.log() - terms.sum(dim=-1, keepdim=True) / total
    found = [(chosen - total.log())[:, 0], entropy[:, 0]]
    if with_gradient:
        mean = (e.to(weight.dtype) @ weight).float() / total  # of the rows of W
        found.append(weight[tokens] - mean)
    if with_entropy_gradient:
        # one product: the difference of two would lose precision
        shares = e.mul_(total.log() - entropy).sub_(terms)
        found.append((shares.to(weight.dtype) @ weight).float() / total)
    return found

"""Log-probabilities of sampled tokens under the sampler's own distribution.

The sampler may draw at a temperature and forbid EOS before a minimum length; the same transform is
applied to the logits here, so that the ratio of new to old probability is exactly 1 before the
first update.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


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
        ``[b, t, V]`` float32; the input itself where there is nothing to do.
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
    """Log-probability of each token: its logit less the log of the sum of all exponentials.

    Args:
        logits: ``[b, t, V]``.
        tokens: ``[b, t]``.

    Returns:
        ``[b, t]``.
    """
    chosen = logits.gather(-1, tokens[..., None]).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each position's distribution, in nats.

    Args:
        logits: ``[b, t, V]``; -inf is a probability of 0.

    Returns:
        ``[b, t]``; the gradient is finite where a probability is 0, too.
    """
    logprobs = logits.log_softmax(dim=-1)
    terms = logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0)
    return -terms.sum(dim=-1)

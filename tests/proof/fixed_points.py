"""Where training ends with options other than the defaults, in closed form, token by token."""

from math import prod

import torch
from torch import Tensor

from proof.world import World

Tokens = dict[tuple[int, ...], float]  # by the tokens up to there


def with_kl_in_loss(world: World, token_logprobs: Tensor, beta: float) -> Tensor:
    """The fixed point of RLOO with a KL term in the loss and none in the rewards, ``[p, n]``.

    The gradient of k3 at a token is that of β·KL(π_ref(·|s)‖π(·|s)) there, and no token answers for
    what the tokens before it did. With Q(s, a) the reward expected after the token ``a``, the
    gradient is 0 where π(a|s)·(Q(s, a) - V(s)) = β·(π(a|s) - π_ref(a|s)), so

        π(a|s) = β·π_ref(a|s) / (λ(s) - Q(s, a)),

    where λ(s) makes it a distribution. From the last token to the first, this gives all of them.

    Args:
        world: Responses and rewards.
        token_logprobs: ``[p, n, t]`` the reference.
        beta: Weight of the term.
    """
    rows = zip(world.ids.tolist(), world.lengths.tolist(), strict=True)
    responses = [tuple(ids[:length]) for ids, length in rows]
    found = []
    for logprobs, rewards in zip(token_logprobs.exp().tolist(), world.rewards, strict=True):
        reference = {
            response[: j + 1]: row[j]
            for response, row in zip(responses, logprobs, strict=True)
            for j in range(len(response))
        }
        policy = _solved(reference, dict(zip(responses, rewards.tolist(), strict=True)), beta)
        found.append([prod(policy[y[: j + 1]] for j in range(len(y))) for y in responses])
    return torch.tensor(found, dtype=torch.float64).log()


def _solved(reference: Tokens, rewards: Tokens, beta: float) -> Tokens:
    """The probability of the last token of each beginning, from the reference's."""
    policy: Tokens = {}

    def value(state: tuple[int, ...]) -> float:
        if state in rewards:
            return rewards[state]
        children = [x for x in reference if x[:-1] == state]
        q = torch.tensor([value(x) for x in children], dtype=torch.float64)
        p = tilted(torch.tensor([reference[x] for x in children], dtype=torch.float64), q, beta)
        policy.update(zip(children, p.tolist(), strict=True))
        return float(p @ q)

    value(())
    return policy


def tilted(reference: Tensor, q: Tensor, beta: float) -> Tensor:
    """The distribution β·π_ref / (λ - q), by bisection for λ; all are ``[v]``."""
    low, high = (q + beta * reference).max(), q.max() + beta
    for _ in range(100):
        middle = (low + high) / 2
        is_low = (beta * reference / (middle - q)).sum() > 1
        low, high = (middle, high) if is_low else (low, middle)
    p = beta * reference / (high - q)
    return p / p.sum()

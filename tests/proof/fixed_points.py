"""Where training ends with options other than the defaults, in closed form, token by token."""

import torch
from torch import Tensor

from proof.world import EOS, World


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
    responses = [
        tuple(row[:length])
        for row, length in zip(world.ids.tolist(), world.lengths.tolist(), strict=True)
    ]
    limit = world.ids.shape[1]
    found = []
    for logprobs, rewards in zip(token_logprobs.tolist(), world.rewards.tolist(), strict=True):
        reference = {
            response[: j + 1]: logprobs[i][j]
            for i, response in enumerate(responses)
            for j in range(len(response))
        }
        worth = dict(zip(responses, rewards, strict=True))
        policy: dict[tuple[int, ...], float] = {(): 0.0}  # log-probability of each beginning

        def value(state: tuple[int, ...]) -> float:
            if state and (state[-1] == EOS or len(state) == limit):
                return worth[state]  # noqa: B023
            children = [x for x in reference if x[:-1] == state]  # noqa: B023
            q = torch.tensor([value(x) for x in children], dtype=torch.float64)  # noqa: B023
            p = torch.tensor([reference[x] for x in children], dtype=torch.float64).exp()  # noqa: B023
            now = tilted(p, q, beta)
            policy.update(zip(children, now.log().tolist(), strict=True))  # noqa: B023
            return float((now * q).sum())

        value(())
        found.append([sum(policy[r[: j + 1]] for j in range(len(r))) for r in responses])
    return torch.tensor(found, dtype=torch.float64)


def tilted(reference: Tensor, q: Tensor, beta: float) -> Tensor:
    """The distribution β·π_ref / (λ - q), by bisection for λ; all are ``[v]``."""
    low, high = (q + beta * reference).max(), q.max() + beta
    for _ in range(100):
        middle = (low + high) / 2
        is_low = (beta * reference / (middle - q)).sum() > 1
        low, high = (middle, high) if is_low else (low, middle)
    p = beta * reference / (high - q)
    return p / p.sum()

"""The chance in sampling, and the log-probabilities of what it draws."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from detox_lightning.seeding import derive_seed

GOLDEN = -0x61C88647  # 2**32 over the golden ratio, as a signed number
UNIT = 2.0**-23
BLOCK, MANY = 256, 4096  # tokens


class TorchDraws:
    """Samples with torch's own random numbers, one for each token.

    One object serves one batch of responses.

    Attributes:
        logprobs: Of each step ``[b]``: log-probability of what was drawn; 0 where a row was not
            asked.
    """

    def __init__(self) -> None:
        """Nothing is drawn yet."""
        self.logprobs: list[Tensor] = []

    def __call__(
        self, scores: Tensor, rows: Tensor, step: int, tokens: Tensor | None = None
    ) -> Tensor:
        """``[r]`` which of its candidates is each row's next token.

        Args:
            scores: ``[r, n]`` float32 logits after temperature and truncation.
            rows: ``[r]`` whose they are; at step 0 all.
            step: Which token of the response, from 0.
            tokens: ``[r, n]`` the candidates; None: the whole vocabulary.
        """
        p = scores.softmax(dim=-1)
        chosen = inverse_cdf(p)
        first = self.logprobs[0] if step else p.new_zeros(len(rows))
        self.logprobs.append(torch.zeros_like(first))
        self.logprobs[step][rows] = p.gather(1, chosen[:, None])[:, 0].log()
        return chosen


class GumbelDraws:
    """Samples by adding Gumbel noise to the logits, whose largest is then taken.

    That is a draw from their distribution (the Gumbel-max trick,
    https://arxiv.org/abs/1411.0030). The noise is a function of seed, prompt, step and token alone:
    one process draws what several would, and two models that are given the same noise say the same
    as long as they think the same. One object serves one batch of responses.

    Attributes:
        logprobs: Of each step ``[b]``: log-probability of what was drawn, or of the likeliest
            token in rows without noise; 0 where a row was not asked.
    """

    def __init__(self, seed: int, index: Tensor, samples: Tensor):
        """Notes whose noise it is.

        Args:
            seed: The evaluation's.
            index: ``[b]`` each row's prompt, by its place among the prompts.
            samples: ``[b]`` which of the prompt's samples a row is, from 1; 0: no noise, the row
                is answered greedily.
        """
        start = torch.tensor(derive_seed(seed, "noise") & 0x7FFFFFFF, dtype=torch.int32)
        keys = hashed(start.to(index.device) ^ hashed(index.int() * GOLDEN))
        self.keys = hashed(keys ^ (samples.int() * GOLDEN))
        self.sampled = samples.bool()[:, None]
        self.logprobs: list[Tensor] = []

    def __call__(
        self, scores: Tensor, rows: Tensor, step: int, tokens: Tensor | None = None
    ) -> Tensor:
        """``[r]`` which of its candidates is each row's next token.

        Args:
            scores: ``[r, n]`` float32 logits after temperature and truncation.
            rows: ``[r]`` whose they are; rows that have ended may be left out.
            step: Which token of the response, from 0.
            tokens: ``[r, n]`` the candidates; None: the whole vocabulary.
        """
        keys = hashed(self.keys[rows] ^ (step * 2 + 1))
        if tokens is None:
            tokens = torch.arange(scores.shape[1], device=scores.device)
        noised = scores + gumbel(keys, tokens)
        chosen = torch.where(self.sampled[rows], noised, scores).argmax(dim=1)
        drawn = scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(dim=1)
        self.logprobs.append(torch.zeros_like(self.keys, dtype=drawn.dtype))
        self.logprobs[step][rows] = drawn
        return chosen


def inverse_cdf(p: Tensor) -> Tensor:
    """``[r]`` a token of each row's distribution ``p`` (``[r, V]``), by the inverse of its sums.

    One random number a row, where ``torch.multinomial`` takes one for each token of the
    vocabulary. The sums are float64, in which a last, unlikely token still counts; to be quick,
    they lead to a block of tokens first.
    """
    at = torch.rand(len(p), 1, device=p.device, dtype=torch.float64)
    if p.shape[1] <= MANY:
        return search(p, at)[0][:, 0]
    blocks = pad(p, (0, -p.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    block, rest = search(blocks.sum(dim=2, dtype=torch.float64), at)
    token, _ = search(blocks[torch.arange(len(p), device=p.device), block[:, 0]], rest)
    # of NaN it is any place: a loss that isn't finite will be noticed, an index error be a riddle
    return (block * BLOCK + token)[:, 0].clamp(max=p.shape[1] - 1)


def search(mass: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sums of masses first exceed a share of their total.

    Args:
        mass: ``[r, n]``.
        at: ``[r, 1]`` shares, from 0 to below 1.

    Returns:
        The place ``[r, 1]``, and how far into its mass the share reaches ``[r, 1]``, as a share.
    """
    sums = mass.cumsum(dim=1, dtype=torch.float64)
    reach = at * sums[:, -1:]
    place = torch.searchsorted(sums, reach, right=True).clamp_(max=mass.shape[1] - 1)
    here = mass.gather(1, place).double()
    return place, (reach - (sums.gather(1, place) - here)) / here


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """``[b, n]`` standard Gumbel numbers, a function of key and token.

    Args:
        keys: ``[b]`` int32.
        tokens: ``[n]``, or each row's own ``[b, n]``.
    """
    bits = hashed(keys[:, None] ^ (tokens.int() * GOLDEN))
    uniform = (bits >> 9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(UNIT)
    return uniform.log_().neg_().log_().neg_()


def hashed(x: Tensor) -> Tensor:
    """Each whole number scattered over all of int32.

    One of the 32-bit mixers that https://github.com/skeeto/hash-prospector found.
    """
    x = _mixed(x, 16, 0x7FEB352D)
    x = _mixed(x, 15, -0x7B935975)
    return x ^ _shifted(x, 16)


def _mixed(x: Tensor, shift: int, factor: int) -> Tensor:
    return (x ^ _shifted(x, shift)).mul_(factor)


def _shifted(x: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros, whatever the sign."""
    return (x >> by).bitwise_and_((1 << (32 - by)) - 1)

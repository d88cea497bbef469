"""Random draws of tokens, and the log-probabilities of the tokens drawn."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from detox_lightning.seeding import derive_seed

GOLDEN = -0x61C88647  # 2**32 over the golden ratio, as a signed number
BLOCK = 256  # tokens whose probabilities are summed first
MAX_UNBLOCKED = 4096  # tokens of a vocabulary that is searched in one go
SUMS_IN_ORDER = {"cpu"}  # devices on which running sums are always the same
UNITS = 2.0**52  # of a probability, where it is counted in whole units


class TorchDraws:
    """Draws with torch's random numbers, one for each token. One object serves one batch.

    Attributes:
        logprobs: For each step ``[b]``: the log-probability of each row's token; 0 where a row was
            left out.
    """

    def __init__(self) -> None:
        self.logprobs: list[Tensor] = []

    def __call__(
        self, scores: Tensor, rows: Tensor, step: int, tokens: Tensor | None = None
    ) -> Tensor:
        """``[r]`` each row's next token, as an index into its candidates.

        Args:
            scores: ``[r, n]`` float32 logits after temperature and truncation.
            rows: ``[r]`` the rows' places in the batch; at step 0 all of them.
            step: The token's place in the response, from 0.
            tokens: ``[r, n]`` the candidates; None: the whole vocabulary.
        """
        p = scores.softmax(dim=-1)
        chosen = inverse_cdf(p)
        first = self.logprobs[0] if step else p.new_zeros(len(rows))
        self.logprobs.append(torch.zeros_like(first))
        self.logprobs[step][rows] = p.gather(1, chosen[:, None])[:, 0].log()
        return chosen


class GumbelDraws:
    """Draws by adding Gumbel noise to the logits and taking the largest sum.

    That is a draw from the logits' distribution (the Gumbel-max trick,
    https://arxiv.org/abs/1411.0030). The noise is a function of seed, prompt, sample, step and
    token only, so that any number of processes draws the same tokens, and two models with the same
    noise give the same response as long as their logits agree. One object serves one batch.

    Attributes:
        logprobs: See :class:`TorchDraws`.

    Args:
        seed: The evaluation's.
        index: ``[b]`` the place of each row's prompt among all prompts.
        samples: ``[b]`` the row's number among its prompt's samples, from 1; 0: no noise.
    """

    def __init__(self, seed: int, index: Tensor, samples: Tensor):
        start = torch.tensor(derive_seed(seed, "noise") & 0x7FFFFFFF, dtype=torch.int32)
        keys = hashed(start.to(index.device) ^ hashed(index.int() * GOLDEN))
        self.keys = hashed(keys ^ (samples.int() * GOLDEN))
        self.sampled = samples.bool()[:, None]
        self.logprobs: list[Tensor] = []

    def __call__(
        self, scores: Tensor, rows: Tensor, step: int, tokens: Tensor | None = None
    ) -> Tensor:
        """``[r]`` each row's next token, with the arguments of :class:`TorchDraws`."""
        keys = hashed(self.keys[rows] ^ (step * 2 + 1))
        if tokens is None:
            tokens = torch.arange(scores.shape[1], device=scores.device)
        noised = scores + gumbel(keys, tokens)
        chosen = torch.where(self.sampled[rows], noised, scores).argmax(dim=1)
        logprobs = scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(dim=1)
        self.logprobs.append(torch.zeros_like(self.keys, dtype=logprobs.dtype))
        self.logprobs[step][rows] = logprobs
        return chosen


def inverse_cdf(p: Tensor) -> Tensor:
    """``[r]`` a token from each row's distribution ``p`` (``[r, V]``), by the inverse of its CDF.

    A row takes one random number, where ``torch.multinomial`` takes one for each token of the
    vocabulary. The CDF is float64, in which a last, unlikely token still counts. Over a large
    vocabulary the search finds a block of tokens first, which is quicker.
    """
    share = torch.rand(len(p), 1, device=p.device, dtype=torch.float64)
    if p.shape[1] <= MAX_UNBLOCKED:
        return search(p, share)[0][:, 0]
    blocks = pad(p, (0, -p.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    block, rest = search(blocks.sum(dim=2, dtype=torch.float64), share)
    token, _ = search(blocks[torch.arange(len(p), device=p.device), block[:, 0]], rest)
    # NaN may lead anywhere; a later check reports it clearly, which an index error would not
    return (block * BLOCK + token)[:, 0].clamp(max=p.shape[1] - 1)


def search(mass: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Finds where the cumulative sum of ``mass`` (``[r, n]``) first exceeds a share of its total.

    Shares are ``[r, 1]``, from 0 to below 1. Returns ``[r, 1]`` places, and ``[r, 1]`` the parts of
    the places' masses that lie below the shares.
    """
    sums = running_sums(mass, torch.float64)
    reach = share * sums[:, -1:]
    place = torch.searchsorted(sums, reach, right=True).clamp_(max=mass.shape[1] - 1)
    here = mass.gather(1, place).double()
    return place, (reach - (sums.gather(1, place) - here)) / here


def running_sums(mass: Tensor, dtype: torch.dtype) -> Tensor:
    """``[r, n]`` the sums of each row's first numbers, which are probabilities (``[r, n]``).

    With ``trainer.deterministic``, a GPU counts whole units, since some versions of torch refuse to
    sum floating-point numbers there: the order of their additions, and so the rounding, may differ.
    """
    if mass.device.type in SUMS_IN_ORDER or not torch.are_deterministic_algorithms_enabled():
        return mass.cumsum(dim=1, dtype=dtype)
    return (mass.double() * UNITS).long().cumsum(dim=1).double().div_(UNITS).to(dtype)


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """``[b, n]`` Gumbel numbers, a function of key (``[b]``) and token (``[n]`` or ``[b, n]``)."""
    bits = hashed(keys[:, None] ^ (tokens.int() * GOLDEN))
    uniform = (bits >> 9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def hashed(x: Tensor) -> Tensor:
    """Integers scattered over all of int32, by a mixer of https://github.com/skeeto/hash-prospector."""
    for shift, factor in ((16, 0x7FEB352D), (15, -0x7B935975)):
        x = (x ^ _shift_right(x, shift)).mul_(factor)
    return x ^ _shift_right(x, 16)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A shift that brings in zeros, whatever the sign."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)

"""Which response positions are real, and statistics over them.

Sums that must be taken over all processes go through ``reduce``, a function from a tensor to its
sum over ranks; alone, a tensor is its own sum.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """Sums a tensor over ranks where there is only one rank."""
    return x


def is_any(ids: Tensor, tokens: Sequence[int]) -> Tensor:
    """Marks the ids that are one of ``tokens``; nothing is copied to the ids' device."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for token in tokens:
        found |= ids == token
    return found


def response_lengths(response_ids: Tensor, eos_token_ids: Sequence[int]) -> Tensor:
    """Counts each response's real tokens: up to its first EOS, which is included, or all.

    The pad token is ignored, since T5's decoder starts with it. Responses are ``[b, t]``, lengths
    ``[b]`` and at least 1 if ``t`` is.
    """
    is_eos = is_any(response_ids, eos_token_ids)
    before = is_eos.cumsum(dim=1) - is_eos.long() == 0
    return before.sum(dim=1)


def mask_from_lengths(lengths: Tensor, width: int) -> Tensor:
    """Makes the mask of responses, ``[b, width]`` bool, with ``lengths`` (``[b]``) real tokens."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def widths(mask: Tensor) -> Tensor:
    """Counts each row's positions up to its last real one in ``mask`` (``[b, t]``): ``[b]``."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return torch.where(mask, places, 0).amax(dim=1)


def passes(mask: Tensor, size: int | None, by_length: bool = True) -> Iterator[tuple[Tensor, int]]:
    """Splits responses with a mask ``[b, t]`` into forward passes of ``size`` rows; None: of all.

    Yields the rows of each pass and how many columns they need. ``by_length`` puts responses of
    similar length together; without it, each pass has all columns.
    """
    ends = torch.full(mask.shape[:1], mask.shape[1])  # on the CPU: a GPU is waited for once
    if by_length:
        ends = widths(mask).cpu()
    for rows in ends.argsort(descending=True, stable=True).split(size or len(mask)):
        yield rows.to(mask.device, non_blocking=True), max(1, int(ends[rows[0]]))


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sums ``x`` where ``mask`` is True; other values are ignored, NaN included."""
    return torch.where(mask, x, 0).sum()


def masked_moments(
    x: Tensor, mask: Tensor, reduce: Reduce = alone
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, population variance and number of ``x`` (``[b, t]``) over real tokens."""
    count = reduce(mask.sum()).to(x.dtype).clamp(min=1)
    mean = reduce(masked_sum(x, mask)) / count
    variance = reduce(masked_sum((x - mean) ** 2, mask)) / count
    return mean, variance, count


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, reduce: Reduce = alone) -> Tensor:
    """Scales ``x`` to unit variance, and to mean 0 if ``shift_mean``, over all ranks' real tokens.

    The variance carries Bessel's correction and 1e-8 is added to it, as in TRL's ``masked_whiten``.
    All tensors are ``[b, t]``; the result is 0 outside the mask.
    """
    mean, variance, count = masked_moments(x, mask, reduce)
    variance = variance * count / (count - 1).clamp(min=1)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, 0)

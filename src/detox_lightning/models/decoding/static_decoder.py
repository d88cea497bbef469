"""Decoders that continue with a static step (see :mod:`.static_step`).

A recorded step takes tensors of any address, so that each batch has its own. Captured steps share
one piece of memory, and their shapes are rounded up so far that a run has few of them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.arena import Arena, Shape
from detox_lightning.models.decoding.decoder import CachedDecoder, Step, writable_tensors

KEY_BLOCK = 64  # keys are padded to multiples of this: a CPU's prompts, and the room for responses
MIN_ROWS, MIN_PROMPT = 8, 128  # a captured step's rows and prompts are padded to these, or twice, …

Bind = Callable[[Any, Step, list[Tensor]], Step]
"""Gives the static step for a model, its step, and tensors that it will be called with."""


class StaticDecoder:
    """Continues a :class:`CachedDecoder` by a static step over copies of its keys and values."""

    @writable_tensors()
    def __init__(self, bind: Bind, decoder: CachedDecoder, step: Step, limit: int):
        self.bind, self.model, self.step = bind, decoder.model, step
        self.length = decoder.mask.shape[1]
        masks, tensors = _with_room(decoder.mask, decoder.cache.layers, self.length + limit - 1)
        if decoder.prompt_mask is not None:
            size = decoder.prompt_mask.shape[1]
            mask, others = _with_room(decoder.prompt_mask, decoder.prompt_cache.layers, size)
            masks, tensors = masks + mask, tensors + others
        tokens = decoder.mask.new_zeros(len(decoder.mask), 1, dtype=torch.long)
        self.inputs = [tokens, tokens.new_full((1,), self.length), *masks, *tensors]
        self.static_step: Step | None = None

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends tokens ``[r]``; the next call may overwrite what is returned."""
        if self.static_step is None:
            self.static_step = self.bind(self.model, self.step, self.inputs)
        token_ids, position, mask, *_ = self.inputs
        token_ids.copy_(tokens[:, None])
        position.fill_(self.length)
        mask[..., self.length] = 0
        self.length += 1
        return self.static_step(*self.inputs)

    @writable_tensors()
    def select(self, rows: Tensor) -> None:
        """Keeps only ``rows``, in this order; an index may repeat."""
        tokens, position, *others = self.inputs
        self.inputs = [tokens[rows], position.clone(), *(x[rows] for x in others)]
        self.static_step = None


class CapturedDecoder(StaticDecoder):
    """Continues a :class:`CachedDecoder` by a captured step, at one of few shapes.

    Rows beyond those of the batch repeat them, and what is computed for them is left out.
    """

    @writable_tensors()
    def __init__(
        self,
        bind: Bind,
        arena: Arena,
        decoder: CachedDecoder,
        step: Step,
        rows: Tensor,
        room: int,
    ):
        """Moves keys and values of distinct prompts to where the captured step finds them.

        ``rows`` (``[b]``) are the index of each row's prompt, and ``room`` is the number of
        responses' tokens.
        """
        self.bind, self.arena, self.model, self.step = bind, arena, decoder.model, step
        self.length, self.static_step = decoder.mask.shape[1], None
        rows = _padded(rows)
        before = 1 if decoder.prompt_mask is not None else padded_size(self.length, MIN_PROMPT)
        sizes, masks = [_whole_blocks(before + room - 1)], [decoder.mask]
        if decoder.prompt_mask is not None:
            sizes.append(padded_size(decoder.prompt_mask.shape[1], MIN_PROMPT))
            masks.append(decoder.prompt_mask)
        shapes = _shapes(decoder, len(rows), sizes)
        self.inputs = arena.tensors(shapes, rows.device)
        self.inputs[0].zero_()
        self.inputs[1].fill_(self.length)
        for added, mask in zip(self.inputs[2:], masks, strict=False):
            added.fill_(torch.finfo(added.dtype).min)
            added[:, 0, 0, : mask.shape[1]].masked_fill_(mask.bool()[rows], 0)
        for to, x in zip(self.inputs[2 + len(masks) :], _given_up(decoder), strict=True):
            to[:, :, : x.shape[2]] = x[rows]
            to[:, :, x.shape[2] :] = 0

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends tokens ``[r]``; the next call may overwrite what is returned."""
        logits, states = super().__call__(_padded(tokens))
        return logits[: len(tokens)], states[: len(tokens)]

    @writable_tensors()
    def select(self, rows: Tensor) -> None:
        """Keeps only ``rows``, in this order, which are no more than before."""
        sources, rows = self.inputs, _padded(rows)
        shapes = [((len(rows), *x.shape[1:]) if x.dim() > 1 else (1,), x.dtype) for x in sources]
        self.inputs = self.arena.tensors(shapes, rows.device)
        # Both lie in the same memory: a tensor ends before the place where the next one began.
        for to, x in zip(self.inputs, sources, strict=True):
            to.copy_(x.clone() if x.dim() == 1 else x[rows])
        self.static_step = None


def padded_size(size: int, smallest: int) -> int:
    """The smallest power of two, from ``smallest`` on, that is at least ``size``."""
    return max(smallest, 1 << (size - 1).bit_length())


def _whole_blocks(size: int) -> int:
    return -(-size // KEY_BLOCK) * KEY_BLOCK


def _padded(rows: Tensor) -> Tensor:
    """Rows ``[r]``, repeated to a padded number."""
    size = padded_size(len(rows), MIN_ROWS)
    return rows if size == len(rows) else rows.repeat(-(-size // len(rows)))[:size]


def _shapes(decoder: CachedDecoder, rows: int, sizes: list[int]) -> list[Shape]:
    """Shapes of a static step's inputs for a number of rows, and of own keys and prompts' keys."""
    shapes: list[Shape] = []
    for size, cache in zip(sizes, (decoder.cache, decoder.prompt_cache), strict=False):
        layers: list[Any] = cache.layers
        for x in (x for layer in layers for x in (layer.keys, layer.values)):
            shapes.append(((rows, x.shape[1], size, x.shape[3]), x.dtype))
    masks: list[Shape] = [((rows, 1, 1, size), shapes[0][1]) for size in sizes]
    return [((rows, 1), torch.long), ((1,), torch.long), *masks, *shapes]


def _given_up(decoder: CachedDecoder) -> Iterator[Tensor]:
    """Keys and values, layer by layer; the decoder loses them, so that their memory is freed."""
    for cache in (decoder.cache, decoder.prompt_cache):
        layers: list[Any] = cache.layers
        while layers:
            layer = layers.pop(0)
            yield layer.keys
            yield layer.values


def _with_room(mask: Tensor, layers: list[Any], size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Copies keys and values into tensors ``[r, h, size, d]``, ``size`` rounded up to whole blocks.

    Also gives the mask ``[r, 1, 1, size]`` that is added to attention scores: 0 where ``mask``
    (``[r, n]``) is True, else the dtype's lowest number.
    """
    size = _whole_blocks(size)
    tensors = []
    for x in (x for layer in layers for x in (layer.keys, layer.values)):
        tensors.append(x.new_zeros(*x.shape[:2], size, x.shape[3]))
        tensors[-1][:, :, : x.shape[2]] = x
    added = tensors[0].new_full((len(mask), 1, 1, size), torch.finfo(tensors[0].dtype).min)
    added[:, 0, 0, : mask.shape[1]].masked_fill_(mask.bool(), 0)
    return [added], tensors

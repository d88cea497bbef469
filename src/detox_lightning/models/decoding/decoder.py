"""Encoded prompts, and a decoder that generates their responses one token at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, Tensor]]
"""A function of tensors that returns logits ``[r, V]`` and last hidden states ``[r, d]``."""


class EncodedPrompts(NamedTuple):
    """The distinct prompts of a batch without needless padding, and which of them each row has.

    Attributes:
        states: ``[u, s, d]`` the encoder's last hidden states; for a model without an encoder
            ``[u, s]`` the tokens, which the first step reads.
        mask: ``[u, s]``, True at real tokens.
        rows: ``[b]`` the index of each row's prompt.
    """

    states: Tensor
    mask: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> "EncodedPrompts":
        """The same on another device."""
        return EncodedPrompts(*(x.to(device, non_blocking=True) for x in self))

    def select(self, rows: Tensor) -> "EncodedPrompts":
        """The prompts of some rows of the batch."""
        return EncodedPrompts(self.states, self.mask, self.rows[rows])

    def without_unused(self) -> "EncodedPrompts":
        """Removes prompts that no row has, then columns without a real token."""
        kept, rows = self.rows.unique(return_inverse=True)
        columns = nonpad_columns(self.mask[kept])
        return EncodedPrompts(self.states[kept][:, columns], self.mask[kept][:, columns], rows)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """States ``[b, s, …]`` and mask ``[b, s]``, a prompt for each row."""
        return self.states.index_select(0, self.rows), self.mask[self.rows]


def deduplicate(ids: Tensor, mask: Tensor) -> EncodedPrompts:
    """The distinct prompts of ``ids`` (``[b, s]``) as tokens, which are 0 outside ``mask``.

    They are on the CPU, which reads how many there are, and how long; a GPU is waited for once.
    """
    marked = torch.where(mask.bool(), ids, -1).cpu()
    found, rows = torch.unique(marked[:, nonpad_columns(marked >= 0)], dim=0, return_inverse=True)
    return EncodedPrompts(found.clamp(min=0), found.ge(0), rows)


def nonpad_columns(mask: Tensor) -> Tensor:
    """``[s]``, True at columns with a real token; only at the first if all prompts are empty."""
    columns = mask.any(dim=0)
    columns[0] |= ~columns.any()
    return columns


class CachedDecoder(ABC):
    """Decodes the unfinished responses of a batch, one row each, with transformers' growing cache.

    Attributes:
        model: From transformers.
        cache: The cache of self-attention.
        prompt_cache: The cache of cross-attention; empty without an encoder.
        mask: ``[r, n]``, True where the decoder's own keys belong to real tokens.
        prompt_mask: ``[r, s]`` the same for an encoder's states; None without an encoder.
    """

    def __init__(self, model: Any, mask: Tensor, prompt_mask: Tensor | None = None):
        from transformers import DynamicCache

        self.model = model
        # T5's config counts the layers of the encoder; its decoder may have more or fewer
        config = (model if prompt_mask is None else model.get_decoder()).config
        self.cache = DynamicCache(config=config.get_text_config(decoder=True))
        self.prompt_cache = DynamicCache()
        self.mask, self.prompt_mask = mask.bool(), prompt_mask

    @abstractmethod
    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends tokens ``[r]``; returns logits ``[r, V]`` and last hidden states ``[r, d]``."""

    def select(self, rows: Tensor) -> None:
        """Keeps only ``rows``, in this order; an index may repeat."""
        self.cache.batch_select_indices(rows)
        self.prompt_cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        self.prompt_mask = None if self.prompt_mask is None else self.prompt_mask[rows]

    @abstractmethod
    def static_step(self) -> Step | None:
        """The model's decode step as a function of tensors alone; None if it can't be one.

        Returns:
            A function of tokens ``[r, 1]``; the position ``[1]`` of their keys; additive attention
            masks ``[r, 1, 1, n]`` and, with an encoder, ``[r, 1, 1, s]``; keys and values of
            self-attention ``[r, h, n, d]``, which it writes to, and of cross-attention
            ``[r, h, s, d]``. Calling it twice has the same effect as calling it once.
        """


@contextmanager
def writable_tensors() -> Iterator[None]:
    """Tensors made inside the block, unlike those of inference mode, can be written to later."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def has_bert_decoder(model: Any) -> bool:
    """Whether a BERT is the decoder of two joined models, whose class doesn't say what it can."""
    config = model.config
    return config.model_type == "encoder-decoder" and config.decoder.model_type == "bert"

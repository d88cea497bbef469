"""A decoder that generates the responses of a batch, one token at a time."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, Tensor]]
"""A function of tensors that returns logits ``[r, V]`` and last hidden states ``[r, d]``."""


class Decoder(Protocol):
    """The unfinished responses of a batch, one row each."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends tokens ``[r]``; returns logits ``[r, V]`` and last hidden states ``[r, d]``.

        The next call may overwrite what is returned.
        """

    def select(self, rows: Tensor) -> None:
        """Keeps only ``rows``, in this order; an index may repeat."""


class CachedDecoder(Decoder):
    """Decode steps over transformers' growing cache, from which a static step can take over.

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
        self.cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self.prompt_cache = DynamicCache()
        self.mask, self.prompt_mask = mask.bool(), prompt_mask

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


def pairs(keys_and_values: tuple[Tensor, ...]) -> "zip[tuple[Tensor, Tensor]]":
    """Each layer's keys and values."""
    return zip(keys_and_values[::2], keys_and_values[1::2], strict=True)


@contextmanager
def writable_tensors() -> Iterator[None]:
    """Tensors made inside the block, unlike those of inference mode, can be written to later."""
    with torch.inference_mode(False), torch.no_grad():
        yield

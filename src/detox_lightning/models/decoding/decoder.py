"""A decoder under way, one token at a time, through the model's own code."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Step = Callable[..., tuple[Tensor, Tensor]]


class Decoder(Protocol):
    """A decoder under way."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[r, V]`` and last hidden states ``[r, d]`` after these tokens (``[r]``).

        They are good until the next call, which may overwrite them.
        """

    def keep(self, rows: Tensor) -> None:
        """Goes on with some of its rows, each as often as it is named."""


class CachedDecoder(ABC):
    """Steps with transformers' growing cache, and what a recording goes on from.

    Attributes:
        model: From transformers.
        mask: ``[r, n]``, True where the decoder's own keys are of real tokens.
        prompt_mask: ``[r, s]`` the same of what an encoder has read; of a model without one None.
    """

    model: Any
    mask: Tensor
    prompt_mask: Tensor | None = None

    @abstractmethod
    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Decoder`."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """See :class:`Decoder`."""

    @property
    @abstractmethod
    def self_layers(self) -> list[Any]:
        """The cache's layers of self-attention."""

    @property
    @abstractmethod
    def cross_layers(self) -> list[Any]:
        """The cache's layers of attention to the prompts; none without an encoder."""

    @abstractmethod
    def static_step(self) -> Step | None:
        """The model's decode step as a function of tensors alone, if it can be one.

        Returns:
            A function of tokens ``[r, 1]``, the place ``[1]`` of this step's keys, masks added to
            attention scores (``[r, 1, 1, n]`` of self-attention, and ``[r, 1, 1, s]`` of the
            prompts where there is an encoder), keys and values of self-attention ``[r, h, n, d]``
            (written to) and of attention to the prompts ``[r, h, s, d]``; it gives logits
            ``[r, V]`` and last hidden states ``[r, d]``.
        """


class Prefill(NamedTuple):
    """What the first step gave.

    Attributes:
        steps: Those that follow.
        logits: ``[b, V]``.
        hidden: ``[b, d]`` last hidden states.
    """

    steps: CachedDecoder
    logits: Tensor
    hidden: Tensor


def pairs(items: tuple[Tensor, ...]) -> "zip[tuple[Tensor, Tensor]]":
    """Keys and values."""
    return zip(items[::2], items[1::2], strict=True)

"""Caches of transformers whose keys and values are tensors of a fixed size."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class FilledLayer(DynamicLayer):
    """Keys and values ``[r, h, s, d]`` that stay as they are: those of the prompts."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True


class SlotLayer(FilledLayer):
    """Room ``[r, h, t, d]`` for the keys and values of all steps; each step fills its own slot."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor):
        super().__init__(keys, values)
        self.position = position  # [1]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Writes this step's keys and values; returns all slots, of which the empty are masked."""
        # under autocast, keys may be float32 and values not; a growing cache widens them, too
        self.keys.index_copy_(2, self.position, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.position, value_states.to(self.values.dtype))
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """The position as a tensor: a number would become a constant of the recording."""
        return self.position[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of keys, and the offset of the first."""
        return self.keys.shape[2], 0


def static_cache(keys_and_values: tuple[Tensor, ...], position: Tensor | None = None) -> Any:
    """A cache of each layer's keys and values; with a position (``[1]``), steps fill that slot."""
    cache = DynamicCache()
    cache.layers = [
        FilledLayer(keys, values) if position is None else SlotLayer(keys, values, position)
        for keys, values in zip(keys_and_values[::2], keys_and_values[1::2], strict=True)
    ]
    return cache

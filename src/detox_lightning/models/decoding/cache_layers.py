"""Keys and values as layers of transformers' caches, for a recorded decode step."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class Filled(DynamicLayer):
    """Keys and values that stay as they are: those of the prompts."""

    def __init__(self, keys: Tensor, values: Tensor):
        """Takes them over.

        Args:
            keys: ``[r, h, s, d]``.
            values: ``[r, h, s, d]``.
        """
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True


class Slots(Filled):
    """Room for the keys and values of all steps, of which each step fills its own."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor):
        """Takes the room over.

        Args:
            keys: ``[r, h, t, d]``.
            values: ``[r, h, t, d]``.
            position: ``[1]`` the step, from 0.
        """
        super().__init__(keys, values)
        self.position = position

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Writes this step's keys and values; gives all, those to come included (to be masked)."""
        for room, states in ((self.keys, key_states), (self.values, value_states)):
            room.index_copy_(2, self.position, states)  # type: ignore[union-attr]
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """The step, as a tensor: a number would be recorded as it is."""
        return self.position[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys there are, and which is the first."""
        return self.keys.shape[2], 0  # type: ignore[union-attr]

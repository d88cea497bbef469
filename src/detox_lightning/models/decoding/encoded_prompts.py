"""Prompts on their way into a model: equal ones once, without needless padding."""

from typing import NamedTuple

import torch
from torch import Tensor


class EncodedPrompts(NamedTuple):
    """Prompts that a model has read, or is to read, equal ones once.

    Attributes:
        states: ``[u, s, d]`` the encoder's last hidden states; of a model without an encoder
            ``[u, s]`` the tokens, which are read with the first step.
        mask: ``[u, s]``, True at real tokens.
        rows: ``[b]`` which of them each row of the batch is.
    """

    states: Tensor
    mask: Tensor
    rows: Tensor

    def select(self, rows: Tensor) -> "EncodedPrompts":
        """Some rows of the batch."""
        return EncodedPrompts(self.states, self.mask, self.rows[rows])

    def without_unused(self) -> "EncodedPrompts":
        """Without the prompts that no row is of, and what is padding to all others."""
        kept, rows = self.rows.unique(return_inverse=True)
        columns = nonpad_columns(self.mask[kept])
        return EncodedPrompts(self.states[kept][:, columns], self.mask[kept][:, columns], rows)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """States ``[b, s, …]`` and mask ``[b, s]`` of each row."""
        return self.states.index_select(0, self.rows), self.mask[self.rows]


def deduplicate(ids: Tensor, mask: Tensor) -> EncodedPrompts:
    """Leaves out what was there before, and the columns that are padding to all.

    Args:
        ids: ``[b, s]``.
        mask: ``[b, s]``.

    Returns:
        Prompts whose states are the tokens; 0 where there is none.
    """
    marked = torch.where(mask.bool(), ids, -1)
    found, rows = torch.unique(marked[:, nonpad_columns(mask.bool())], dim=0, return_inverse=True)
    return EncodedPrompts(found.clamp(min=0), found.ge(0), rows)


def nonpad_columns(mask: Tensor) -> Tensor:
    """``[s]``, True at columns with a real token; there is always one, even of empty prompts."""
    columns = mask.any(dim=0)
    columns[0] |= not columns.any()
    return columns

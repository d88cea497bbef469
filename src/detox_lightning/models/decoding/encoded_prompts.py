"""Prompts as a model reads them: each distinct prompt once, without needless padding."""

from typing import NamedTuple

import torch
from torch import Tensor


class EncodedPrompts(NamedTuple):
    """The distinct prompts of a batch, and which of them each row has.

    Attributes:
        states: ``[u, s, d]`` the encoder's last hidden states; for a model without an encoder
            ``[u, s]`` the tokens, which the first step reads.
        mask: ``[u, s]``, True at real tokens.
        rows: ``[b]`` the index of each row's prompt.
    """

    states: Tensor
    mask: Tensor
    rows: Tensor

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
    """The distinct prompts of ``ids`` (``[b, s]``) as tokens, which are 0 outside ``mask``."""
    marked = torch.where(mask.bool(), ids, -1)
    found, rows = torch.unique(marked[:, nonpad_columns(mask.bool())], dim=0, return_inverse=True)
    return EncodedPrompts(found.clamp(min=0), found.ge(0), rows)


def nonpad_columns(mask: Tensor) -> Tensor:
    """``[s]``, True at columns with a real token; only at the first if all prompts are empty."""
    columns = mask.any(dim=0)
    columns[0] |= not columns.any()
    return columns

"""What the data modules hand to the training stages: named tuples of tensors and texts."""

from typing import NamedTuple

import torch
from torch import Tensor


class PromptBatch(NamedTuple):
    """``b`` prompts, tokenized and as text, with what people answered.

    Attributes:
        prompt_ids: ``[b, s]`` token ids, padded on the family's side.
        prompt_mask: ``[b, s]``, True where ``prompt_ids`` holds a real token.
        target_ids: ``[b, r]`` token ids of the answers to learn, EOS included, padded on the right;
            ``r`` is 0 where there is nothing to learn.
        target_mask: ``[b, r]``, True where ``target_ids`` holds a real token.
        prompts: The ``b`` prompts as text: with the data module's template, without a chat
            template and special tokens.
        references: The ``b`` answers of people as text (what ROUGE compares with); empty where
            there is none.
        places: ``[b]`` each prompt's place among its rows, from 0; no two have the same.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    target_ids: Tensor
    target_mask: Tensor
    prompts: list[str]
    references: list[str]
    places: Tensor

    def repeated(self, k: int) -> "PromptBatch":
        """Each row ``k`` times, in consecutive rows."""
        return self.select(torch.arange(len(self.prompts)).repeat_interleave(k))

    def select(self, rows: Tensor) -> "PromptBatch":
        """Some rows.

        Args:
            rows: Their places in this batch.
        """
        places = rows.tolist()
        columns = (
            column[rows.to(column.device)]
            if isinstance(column, Tensor)
            else [column[row] for row in places]
            for column in self
        )
        return PromptBatch(*columns)  # type: ignore[arg-type]


class LabeledBatch(NamedTuple):
    """``b`` labelled texts.

    Attributes:
        input_ids: ``[b, s]`` token ids, padded on the right.
        attention_mask: ``[b, s]``, True where ``input_ids`` holds a real token.
        labels: ``[b]`` class indices.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

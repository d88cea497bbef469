"""What the data modules hand to the training stages: named tuples of tensors and texts."""

from typing import NamedTuple

from torch import Tensor


class PromptBatch(NamedTuple):
    """``b`` prompts, tokenized and as text, with the summaries written by people.

    Attributes:
        prompt_ids: ``[b, s]`` token ids, padded on the family's side.
        prompt_mask: ``[b, s]``, True where ``prompt_ids`` holds a real token.
        target_ids: ``[b, r]`` token ids of the reference summaries, EOS included, padded on the
            right.
        target_mask: ``[b, r]``, True where ``target_ids`` holds a real token.
        prompts: The ``b`` prompts as text, template included.
        references: The ``b`` reference summaries as text (what ROUGE compares with).
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    target_ids: Tensor
    target_mask: Tensor
    prompts: list[str]
    references: list[str]

    def repeated(self, k: int) -> "PromptBatch":
        """Each row ``k`` times, in consecutive rows."""
        return PromptBatch(
            self.prompt_ids.repeat_interleave(k, dim=0),
            self.prompt_mask.repeat_interleave(k, dim=0),
            self.target_ids.repeat_interleave(k, dim=0),
            self.target_mask.repeat_interleave(k, dim=0),
            [prompt for prompt in self.prompts for _ in range(k)],
            [reference for reference in self.references for _ in range(k)],
        )


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

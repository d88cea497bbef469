"""Batches that the data modules hand to the training stages."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor


class PromptBatch(NamedTuple):
    """``b`` prompts, tokenized and as text, with reference answers.

    Attributes:
        prompt_ids: ``[b, s]`` token ids, padded on the family's side.
        prompt_mask: ``[b, s]``, True where ``prompt_ids`` holds a real token.
        target_ids: ``[b, r]`` token ids of the answers to learn, EOS included, padded on the right;
            ``r`` is 0 if there is nothing to learn.
        target_mask: ``[b, r]``, True where ``target_ids`` holds a real token.
        prompts: The ``b`` prompts as text: with the data module's template, without a chat
            template and special tokens.
        references: ``b`` human answers as text, which ROUGE compares with; empty if there is none.
        places: ``[b]`` each prompt's index in its data set, from 0; no two are the same.
        columns: Further columns of the data, ``b`` values each, by name: those that a reward takes.
        more_references: Further human answers to each prompt; None: there are none.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    target_ids: Tensor
    target_mask: Tensor
    prompts: list[str]
    references: list[str]
    places: Tensor
    columns: dict[str, list[Any]] = {}  # noqa: RUF012  (nothing changes it)
    more_references: list[list[str]] | None = None

    @property
    def all_references(self) -> list[list[str]]:
        """All human answers to each prompt, at least one; it is empty if there is none."""
        more = self.more_references or [[]] * len(self.references)
        return [[first, *others] for first, others in zip(self.references, more, strict=True)]

    def repeated(self, k: int) -> "PromptBatch":
        """Returns each row ``k`` times, in consecutive rows."""
        return self.select(torch.arange(len(self.prompts)).repeat_interleave(k))

    def select(self, rows: Tensor) -> "PromptBatch":
        """Returns the rows with these indices."""
        indices = rows.tolist()

        def chosen(column: Any) -> Any:
            if isinstance(column, Tensor):
                return column[rows.to(column.device, non_blocking=True)]
            if column is None:
                return None
            if isinstance(column, dict):
                return {name: chosen(values) for name, values in column.items()}
            return [column[index] for index in indices]

        return PromptBatch(*map(chosen, self))


class LabeledBatch(NamedTuple):
    """``b`` labelled texts.

    Attributes:
        input_ids: ``[b, s]`` token ids, padded on the right.
        attention_mask: ``[b, s]``, True where ``input_ids`` holds a real token.
        labels: ``[b]`` class indices, or ``[b, labels]`` scores from 0 to 1.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


class IdentitySentences(NamedTuple):
    """``n`` sentences, each about one group of people.

    Attributes:
        texts: The sentences.
        groups: Each one's identity term, in lower case.
        templates: Each one without its term, which stands there as ``{group}``.
        harmless: Whether each one is harmless; the others are toxic.
    """

    texts: list[str]
    groups: list[str]
    templates: list[str]
    harmless: list[bool]

    def select(self, rows: Iterable[int]) -> "IdentitySentences":
        """Returns the sentences with these indices."""
        rows, columns = list(rows), cast("tuple[list[Any], ...]", self)
        return IdentitySentences(*([column[row] for row in rows] for column in columns))

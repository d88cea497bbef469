"""Rows that become prompts: tokenized within a limit, and collated into batches."""

import re
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from detox_lightning.batches import PromptBatch
from detox_lightning.data.counted_rows import CountedRows
from detox_lightning.data.encoding import Encoding, pad
from detox_lightning.data.row_source import RowSource
from detox_lightning.errors import InputError
from detox_lightning.protocols import Stage


@dataclass(frozen=True, kw_only=True)
class PromptRows(RowSource):
    """Rows that become prompts.

    Attributes:
        chat_template: Whether prompts are put into the tokenizer's chat template.
        cut_long: Whether longer prompts are cut; otherwise they are left out.
    """

    chat_template: bool
    cut_long: bool = True

    @property
    @abstractmethod
    def settings(self) -> tuple[Any, ...]:
        """All that the encoded rows depend on besides the rows and the tokenizer."""

    def fill(self, text: str) -> str:
        """Returns the prompt for a text."""
        return text

    @abstractmethod
    def divide(
        self, encoding: Encoding, batch: dict[str, list[Any]]
    ) -> tuple[list[str], list[str], list[list[int]]]:
        """Returns the texts for the prompts, the references, and token ids of the answers."""

    @abstractmethod
    def shorten(self, text: str, tokens: Callable[[str], int]) -> str:
        """Returns the prompt for as much of a text as fits; ``tokens`` counts those of a prompt."""

    def is_usable(self, prompt: str, ids: list[int]) -> bool:
        """Whether a prompt stays."""
        return True

    def encode(
        self, split: str, rows: CountedRows, encoding: Encoding, stage: Stage | None
    ) -> CountedRows:
        """Encodes rows; see :meth:`RowSource.encode`."""
        empty = self.fill("")
        if (alone := self._tokens(encoding, empty)) > self.max_prompt_tokens:
            what = "the template" if empty else "the chat template"
            what = what if empty or self.chat_template else "an empty prompt"
            raise InputError(
                f"--data.max_prompt_tokens={self.max_prompt_tokens}: {what} alone has {alone}; "
                "raise it"
            )
        key = (*self.settings, self.chat_template, self.max_prompt_tokens, self.cut_long)
        encoded = encoding.encode(rows.rows, partial(self.tokenize, encoding), *key)
        if len(encoded) == len(rows.rows):
            return rows._replace(rows=encoded)
        return rows.then(f"with prompts of 1 to {self.max_prompt_tokens} tokens", encoded)

    def tokenize(
        self, encoding: Encoding, batch: dict[str, list[Any]], places: list[int]
    ) -> dict[str, list[Any]]:
        """Makes and tokenizes prompts; there may be fewer of them than rows.

        Args:
            encoding: The tokenizer.
            batch: Columns of text.
            places: The rows' numbers among all rows.

        Returns:
            ``prompt`` and ``reference`` (text), ``prompt_ids``, ``target_ids`` (EOS last, or
            empty), ``cut``, whether the prompt was shortened, and ``index``, the row's number.
        """
        texts, references, target_ids = self.divide(encoding, batch)
        prompts = [self.fill(text) for text in texts]
        ids = encoding.prompt_ids(prompts, self.chat_template)
        too_long = [len(row) > self.max_prompt_tokens for row in ids]
        for row in (row for row, is_long in enumerate(too_long) if is_long and self.cut_long):
            prompts[row] = self.shorten(texts[row], partial(self._tokens, encoding))
            ids[row] = encoding.prompt_ids([prompts[row]], self.chat_template)[0]
        columns: dict[str, list[Any]] = {
            "prompt": prompts,
            "reference": references,
            "prompt_ids": ids,
            "target_ids": target_ids,
            "cut": too_long,
            "index": places,
        }
        kept = [row for row, prompt in enumerate(prompts) if self.is_usable(prompt, ids[row])]
        return {name: [column[row] for row in kept] for name, column in columns.items()}

    def _tokens(self, encoding: Encoding, prompt: str) -> int:
        return len(encoding.prompt_ids([prompt], self.chat_template)[0])

    def collator(self, encoding: Encoding) -> "PromptCollator":
        """Makes the collator; see :meth:`RowSource.collator`."""
        return PromptCollator(encoding.pad_id, encoding.padding_side)


def longest_fitting(ends: Sequence[int], tokens: Callable[[int], int], limit: int) -> int | None:
    """Returns the last of some ascending ends of a text at which it has at most ``limit`` tokens.

    Args:
        ends: Where the text may end.
        tokens: Counts the tokens of the text up to an end.
        limit: Largest number of tokens.
    """
    # a longer text can have fewer tokens; even so the search ends at a length that fits
    fitting = bisect_right(ends, limit, key=tokens)
    return ends[fitting - 1] if fitting else None


def divide_words(text: str, share: float) -> tuple[str, str]:
    """Divides a text between two of its words.

    Args:
        text: Words with white space between them.
        share: Share of the words that comes first, rounded down; at least one word does.

    Returns:
        Both parts without surrounding white space; both are empty if the text has only one word.
    """
    ends = word_ends(text)
    if len(ends) < 2:
        return "", ""
    end = ends[max(1, int(len(ends) * share)) - 1]
    return text[:end].strip(), text[end:].strip()


def word_ends(text: str) -> list[int]:
    """Returns where the words of a text end."""
    return [word.end() for word in re.finditer(r"\S+", text)]


@dataclass(frozen=True)
class PromptCollator:
    """Pads encoded rows into a :class:`PromptBatch`, the prompts on ``side``."""

    pad_id: int
    side: str

    def __call__(self, rows: list[dict[str, Any]]) -> PromptBatch:
        """Pads the rows to a common length."""
        return PromptBatch(
            *pad([row["prompt_ids"] for row in rows], self.pad_id, self.side),
            *pad([row["target_ids"] for row in rows], self.pad_id),
            [row["prompt"] for row in rows],
            [row["reference"] for row in rows],
            torch.tensor([row["index"] for row in rows]),
        )

"""What the data modules of prompts share: tokenizing within a limit, batches, prediction."""

import json
import re
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.batches import PromptBatch
from detox_lightning.data.base_module import RowsDataModule
from detox_lightning.data.conversations import CONVERSATION, Prompt, adopt, as_text, shorten
from detox_lightning.data.counted_rows import CountedRows, nonempty
from detox_lightning.data.encoding import pad
from detox_lightning.data.locations import find
from detox_lightning.data.predict_rows import PredictRows
from detox_lightning.data.sources import load_rows
from detox_lightning.errors import InputError
from detox_lightning.protocols import Stage

if TYPE_CHECKING:
    from datasets import Dataset

Batch = dict[str, list[Any]]  # rows, by column
EXTRA = "column."  # precedes the names of further columns that a reward takes
# for prompts; references, one or several of each; ids of answers
Texts = tuple[list[str], Sequence[str | list[str]], list[list[int]]]


class PromptDataModule(RowsDataModule):
    """Batches of prompts.

    Rows in TRL's formats need no names of columns: ``prompt`` and ``completion``, as text or as
    lists of messages, or ``messages``. Such prompts are used as they are.

    Args:
        chat_template: Put each prompt into the tokenizer's chat template, as the user's message.
        predict_source: Texts to answer in predict, all of them whatever the other options are: a
            .txt file (one text per line), a .jsonl, .json, .csv, .tsv or .parquet file with the
            same column of texts as source, or - for standard input (lines of text, or of JSON
            objects with that column). Other columns may be missing. null: the test rows.
        shared: Options of :class:`RowsDataModule`.
    """

    columns: tuple[str, ...]  # the column with the texts, and other columns to read
    gathered: Mapping[str, Sequence[str]] = MappingProxyType({})  # columns made of several others
    kind: ClassVar[str]  # what a text is called, in messages and in the flag of its column
    as_is = False  # whether the prompts came in one of TRL's formats
    cuts_long = True  # whether prompts that are too long are cut; otherwise they are left out
    settings: tuple[Any, ...]  # all that `_divide` and `_fill` depend on besides the rows

    def __init__(
        self,
        source: str | list[str],
        tokenizer: str | None = None,
        chat_template: bool = False,
        predict_source: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(source, tokenizer, **shared)
        self.chat_template, self.predict_source = chat_template, predict_source
        if predict_source is not None:
            self.predict_split = "predict"

    def _fill(self, text: str) -> str:
        """Returns the prompt for a text."""
        return text

    @abstractmethod
    def _divide(self, batch: Batch, whole: bool) -> Texts:
        """Returns what prompts are made of; ``whole`` ones are not divided."""

    @abstractmethod
    def _shorten(self, text: str) -> str:
        """Returns the prompt for as much of a text as fits."""

    def _adopt(self, rows: "Dataset", source: str) -> "Dataset":
        """Gives rows in TRL's formats own columns; from then on, prompts are used as they are."""
        rows = adopt(rows, self.columns, source)
        if CONVERSATION in rows.column_names:
            self.chat_template |= rows.data.column(CONVERSATION).null_count < len(rows)
        if CONVERSATION in rows.column_names and not self.as_is:
            how = "in the tokenizer's chat template" if self.chat_template else "as they are"
            rank_zero_info(f"{source}: the prompts have TRL's format, and are used {how}")
            self.as_is, self.settings = True, (*self.settings, "as is")
        return rows

    def _read(self, split: str) -> CountedRows:
        if split != "predict" or self.predict_source is None:
            return super()._read(split)
        given = self.columns, self.kind, self._extra, self.gathered
        asked = PredictRows(self.predict_source, *given)
        rows = asked.read(self.trainer.world_size if self.trainer else 1)
        self._adopt(rows, f"--data.predict_source={self.predict_source}")
        with suppress(InputError):  # texts are answered as those of the training were
            for source in [] if self.as_is else filter(find, self.sources):
                self._select(load_rows(source, self.splits["train"] or ""), source)
        return CountedRows(rows).then("rows", rows)

    def _with_text(self, rows: CountedRows, role: str, column: str, where: str) -> CountedRows:
        """Keeps the rows with text in the column for a role."""
        named = column if not self.as_is else "prompt" if role == self.kind else "completion"
        return rows.filter(f"with a {role}", nonempty, column).require_rows(
            where,
            f": each needs text in its column {named!r}; fill it in, or name another column with "
            f"--data.{role}_column",
        )

    def _encode(self, split: str, rows: CountedRows) -> CountedRows:
        limit, empty = self.max_prompt_tokens, self._fill("")
        if (alone := self._tokens(empty)) > limit:
            name = "the chat template" if self.chat_template else "an empty prompt"
            raise InputError(
                f"--data.max_prompt_tokens={limit}: {'the template' if empty else name} alone has "
                f"{alone}; raise it"
            )
        whole = split == "predict"  # no row is left out, and no text divided
        key = (*self.settings, limit, self.chat_template, self.cuts_long, whole, *self._extra)
        encoded = self.encoding.encode(rows.rows, partial(self.tokenize, whole), *key)
        if len(encoded) == len(rows.rows):
            return rows._replace(rows=encoded)
        return rows.then(f"with prompts of 1 to {limit} tokens", encoded)

    def tokenize(self, whole: bool, batch: Batch, places: list[int]) -> Batch:
        """Makes and tokenizes prompts; there may be fewer of them than rows.

        ``places`` are the rows' numbers; ``whole`` texts are neither divided nor left out.

        Returns:
            ``prompt`` and ``reference`` (text), ``more_references`` (JSON), ``prompt_ids``,
            ``target_ids`` (EOS last, or empty), ``cut``, whether the prompt was too long,
            ``index``, the row's number, and ``column.NAME``, the columns that a reward takes.
        """
        texts, references, target_ids = self._divide(batch, whole)
        chats = batch.get(CONVERSATION) or [None] * len(texts)
        prompts: list[Prompt] = [
            json.loads(chat) if chat else self._fill(text)
            for chat, text in zip(chats, texts, strict=True)
        ]
        ids = self.encoding.prompt_ids(prompts, self.chat_template)
        too_long = [len(row) > self.max_prompt_tokens for row in ids]
        for row, is_long in enumerate(too_long):
            if is_long and (whole or self.cuts_long):
                prompts[row] = self._shortened(prompts[row], texts[row])
                (ids[row],) = self.encoding.prompt_ids([prompts[row]], self.chat_template)
        shown = [*map(as_text, prompts)]
        columns: Batch = {
            "prompt": shown,
            "reference": [x if isinstance(x, str) else (x or [""])[0] for x in references],
            # as text, since rows that have none don't tell a table what kind of list this is
            "more_references": [
                json.dumps([] if isinstance(x, str) else x[1:]) for x in references
            ],
            "prompt_ids": ids,
            "target_ids": target_ids,
            "cut": too_long,
            "index": places,
            **{EXTRA + name: batch[name] for name in self._extra},
        }
        kept = [
            row
            for row, tokens in enumerate(ids)
            if shown[row].strip() and 0 < len(tokens) <= self.max_prompt_tokens
        ]
        return {name: [column[row] for row in kept] for name, column in columns.items()}

    def encode_texts(self, texts: list[str], stage: Stage) -> list[dict[str, Any]]:
        """Encodes texts for a stage as ``predict`` does; InputError if a text is empty."""
        self._asking = stage
        try:
            columns = {name: [""] * len(texts) for name in (*self.columns, *self._extra)}
            columns[self.columns[0]] = texts
            self._forget_other_stage()
            rows = self.tokenize(True, columns, list(range(len(texts))))
        finally:
            self._asking = None
        for number, text in enumerate(texts):
            if not text.strip() or number not in rows["index"]:
                raise InputError(f"text {number + 1} of {len(texts)} is empty; leave it out")
        return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]

    def batch_of(self, rows: list[dict[str, Any]]) -> PromptBatch:
        """Makes a batch of encoded rows."""
        return self._collator()(rows)

    def _shortened(self, prompt: Prompt, text: str) -> Prompt:
        if isinstance(prompt, str):
            return self._shorten(text)
        if shorter := shorten(prompt, self._longest_fitting):
            return shorter
        raise InputError(
            f"--data.max_prompt_tokens={self.max_prompt_tokens}: the chat template and the system "
            f"message {prompt[0]['content'][:80]!r} leave no room; raise it"
        )

    def _tokens(self, prompt: Prompt) -> int:
        return len(self.encoding.prompt_ids([prompt], self.chat_template)[0])

    def _longest_fitting(self, ends: Sequence[int], prompt: Callable[[int], Any]) -> int | None:
        """Returns the last of ascending ``ends`` of a text at which its prompt fits, if any."""
        # a longer text can have fewer tokens; the search still ends at a length that fits
        limit = self.max_prompt_tokens
        fitting = bisect_right(ends, limit, key=lambda end: self._tokens(prompt(end)))
        return ends[fitting - 1] if fitting else None

    def _collator(self) -> Callable[[list[dict[str, Any]]], PromptBatch]:
        return partial(_collate, pad_id=self.encoding.pad_id, side=self.encoding.padding_side)


def divide_words(text: str, share: float) -> tuple[str, str]:
    """Divides a text so that a share of its words, rounded down but at least one, comes first.

    Both parts have no surrounding white space; both are empty if the text has only one word.
    """
    ends = word_ends(text)
    if len(ends) < 2:
        return "", ""
    end = ends[max(1, int(len(ends) * share)) - 1]
    return text[:end].strip(), text[end:].strip()


def word_ends(text: str) -> list[int]:
    """Returns where the words of a text end."""
    return [word.end() for word in re.finditer(r"\S+", text)]


def _collate(rows: list[dict[str, Any]], pad_id: int, side: str) -> PromptBatch:
    return PromptBatch(
        *pad([row["prompt_ids"] for row in rows], pad_id, side),
        *pad([row["target_ids"] for row in rows], pad_id),
        [row["prompt"] for row in rows],
        [row["reference"] for row in rows],
        torch.tensor([row["index"] for row in rows]),
        {
            name.removeprefix(EXTRA): [row[name] for row in rows]
            for name in rows[0]
            if name.startswith(EXTRA)
        },
        [json.loads(row["more_references"]) for row in rows],
    )

"""From rows of texts to prompts to go on from: which rows, how much of each, in which part."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from detox_lightning.data.counted import Counted, nonempty
from detox_lightning.data.encoding import Encoding
from detox_lightning.data.sources import KINDS, check_scores, check_text, kind_of, load_rows
from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Continuations:
    """Which rows of a source are used.

    Args:
        sources: As for :func:`~detox_lightning.data.sources.load_rows`.
        prompt: Column with the prompts.
        continuation: Column with how people went on; None, or one that isn't there: not known.
        toxicity: Column with the prompts' toxicity, from 0 to 1.
        min_toxicity: Prompts are at least so toxic; None: no bound.
    """

    sources: tuple[str, ...]
    prompt: str
    continuation: str | None
    toxicity: str
    min_toxicity: float | None

    def read(self, split: str, flag: str) -> Counted:
        """Reads a split of all sources and keeps the rows with a prompt, toxic enough.

        Args:
            split: Name of the split.
            flag: The flag that named it, for the message.

        Returns:
            Rows with the prompts' column and, if it is there, the continuations'.

        Raises:
            InputError: If a column is missing or holds something else.
        """
        from datasets import concatenate_datasets

        tables = [self._checked(load_rows(name, split, flag), name) for name in self.sources]
        rows = concatenate_datasets(tables) if len(tables) > 1 else tables[0]
        counted = Counted.of(rows).keep("with a prompt", nonempty, [self.prompt], quiet=True)
        if not len(counted.rows):
            raise InputError(
                f"{', '.join(self.sources)}: no row of {split!r} is left ({counted}): each needs "
                f"text in its column {self.prompt!r}; fill it in, or name another column with "
                "--data.prompt_column"
            )
        if self.min_toxicity is not None:
            at_least = f"with a toxicity of at least {self.min_toxicity}"
            test = partial(reaches, least=float(self.min_toxicity))
            counted = counted.keep("with a known toxicity", known, [self.toxicity], quiet=True)
            counted = counted.keep(at_least, test, [self.toxicity])
        return counted

    def _checked(self, rows: "Dataset", source: str) -> "Dataset":
        """The columns that are used."""
        check_text(rows, self.prompt, "--data.prompt_column", source)
        columns = [self.prompt]
        column = self.continuation
        if column and column in rows.column_names and kind_of(rows, column) != KINDS["null"]:
            check_text(rows, column, "--data.continuation_column", source)
            columns.append(column)
        if self.min_toxicity is not None:
            flag = f"--data.min_toxicity={self.min_toxicity}, --data.toxicity_column"
            check_scores(rows, self.toxicity, flag, source)
            columns.append(self.toxicity)
            from datasets import Value

            if kind_of(rows, self.toxicity) != "float64":  # as another source's may be
                rows = rows.cast_column(self.toxicity, Value("float64"))
        return rows.select_columns(list(dict.fromkeys(columns)))


def known(numbers: list[float | None]) -> list[bool]:
    """Which numbers are there: neither None nor NaN."""
    return [number is not None and number == number for number in numbers]


def reaches(numbers: list[float], least: float) -> list[bool]:
    """Which numbers are at least ``least``."""
    return [number >= least for number in numbers]


@dataclass(frozen=True)
class ContinuationForm:
    """How a row becomes a prompt.

    Args:
        prompt: Column with the prompts.
        continuation: Column with how people went on; may be missing.
        share: Of a text's words, those that are the prompt, the others being how people went on;
            None: all of the text is the prompt.
        chat: Whether the prompt goes into the tokenizer's chat template.
        limit: Tokens a prompt may have, a chat template included.
        cut: Whether longer ones are cut, rather than left out.
    """

    prompt: str
    continuation: str | None
    share: float | None
    chat: bool
    limit: int
    cut: bool

    @property
    def whole(self) -> "ContinuationForm":
        """The form in which every text is a prompt, and none is left out."""
        return replace(self, share=None, cut=True)

    def check(self, encoding: Encoding) -> None:
        """Makes sure that a chat template leaves room for a prompt, before many are put into it.

        Args:
            encoding: The tokenizer.

        Raises:
            InputError: If the chat template alone has more than ``limit`` tokens, or isn't there.
        """
        if self.chat and (alone := len(encoding.prompt_ids([""], True)[0])) > self.limit:
            raise InputError(
                f"--data.max_prompt_tokens={self.limit}: the chat template alone has {alone}; "
                "raise it"
            )

    def encoded(self, rows: Counted, encoding: Encoding) -> Counted:
        """Rows as the collator takes them; see :meth:`encode`.

        Args:
            rows: With the columns of this form.
            encoding: The tokenizer.

        Raises:
            InputError: If there is to be a chat template and the tokenizer has none.
        """
        template = encoding.chat_template if self.chat else None
        terms = ("continuation", *astuple(self), template, encoding.padding_side)
        encoded = encoding.encode(rows.rows, partial(self.encode, encoding), *terms)
        if len(encoded) == len(rows.rows):
            return rows._replace(rows=encoded)
        return rows.then(f"with prompts of 1 to {self.limit} tokens", encoded)

    def encode(
        self, encoding: Encoding, batch: dict[str, list[str]], places: list[int]
    ) -> dict[str, list[Any]]:
        """Divides texts and tokenizes; there may be fewer rows than there were.

        Args:
            encoding: The tokenizer.
            batch: Columns of text.
            places: Of the rows among all.

        Returns:
            ``prompt`` and ``reference`` (text), ``prompt_ids`` (1 to ``limit``), ``target_ids``
            (none), ``cut``, whether the prompt had to be shortened, and ``index``, the place.
        """
        prompts = list(batch[self.prompt])
        references = batch.get(self.continuation or "") or [""] * len(prompts)
        if self.share is not None:
            pairs = [divided(text, self.share) for text in prompts]
            prompts, references = map(list, zip(*pairs, strict=True))
        ids = encoding.prompt_ids(prompts, self.chat)
        long = [len(row) > self.limit for row in ids]
        if self.cut:
            for row in (row for row, is_long in enumerate(long) if is_long):
                prompts[row] = self.shorten(encoding, prompts[row])
                ids[row] = encoding.prompt_ids([prompts[row]], self.chat)[0]
        kept = [
            row
            for row, tokens in enumerate(ids)
            if prompts[row].strip() and 0 < len(tokens) <= self.limit
        ]
        return {
            "prompt": [prompts[row] for row in kept],
            "reference": [references[row] or "" for row in kept],
            "prompt_ids": [ids[row] for row in kept],
            "target_ids": [[] for _ in kept],
            "cut": [long[row] for row in kept],
            "index": [places[row] for row in kept],
        }

    def shorten(self, encoding: Encoding, prompt: str) -> str:
        """As much of a prompt's beginning as fits: whole words, of a single one characters.

        Args:
            encoding: The tokenizer.
            prompt: One of more than ``limit`` tokens.

        Raises:
            InputError: If nothing fits.
        """

        def tokens(end: int) -> int:
            return len(encoding.prompt_ids([prompt[:end]], self.chat)[0])

        for ends in (word_ends(prompt), range(1, len(prompt))):
            # a longer text can have fewer tokens; even so the search ends at a length that fits
            if kept := bisect_right(ends, self.limit, key=tokens):
                return prompt[: ends[kept - 1]]
        raise InputError(
            f"--data.max_prompt_tokens={self.limit}: a single character has {tokens(1)}, with what "
            "the tokenizer and its chat template add; raise it"
        )


def word_ends(text: str) -> Sequence[int]:
    """Where the words of a text end."""
    return [word.end() for word in re.finditer(r"\S+", text)]


def divided(text: str, share: float) -> tuple[str, str]:
    """A text's first words and the others.

    Args:
        text: With white space between words.
        share: Of the words, those that come first; at least one, and rounded down.

    Returns:
        Both parts without white space at their ends. A single word leaves nothing to go on with,
        and so is no prompt: both are empty then.
    """
    ends = word_ends(text)
    if len(ends) < 2:
        return "", ""
    end = ends[max(1, int(len(ends) * share)) - 1]
    return text[:end].strip(), text[end:].strip()

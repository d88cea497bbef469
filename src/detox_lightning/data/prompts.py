"""From a dialogue to a prompt: which rows, in what words, within how many tokens."""

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from detox_lightning.batches import PromptBatch
from detox_lightning.data.counted import Counted, nonempty, within
from detox_lightning.data.encoding import Encoding, pad
from detox_lightning.data.sources import KINDS, check_text, kind_of, load_rows
from detox_lightning.errors import InputError

FIELD = "{dialogue}"
ROLES = ("dialogue", "summary", "reference")


@dataclass(frozen=True)
class Dialogues:
    """Which rows of a source are used.

    Args:
        source: As for :func:`~detox_lightning.data.sources.load_rows`.
        columns: Those of the dialogue, of the summary and of the reference.
        min_chars: Dialogues have more characters than this; None: no bound.
        max_chars: Dialogues have at most so many characters; None: no bound.
    """

    source: str
    columns: tuple[str, str, str]
    min_chars: int | None
    max_chars: int | None

    def read(self, split: str, flag: str, needs: Collection[str] = ()) -> Counted:
        """Reads a split and keeps the rows with the texts that are needed, within the bounds.

        Args:
            split: Name of the split.
            flag: The flag that named it, for the message.
            needs: Of ``summary`` and ``reference`` those that no row may lack; a dialogue is always
                needed.

        Raises:
            InputError: If there are no such rows; with the counts before and after each step.
        """
        rows = load_rows(self.source, split, flag)
        roles = dict(zip(ROLES, self.columns, strict=True))
        needed = [role for role in ROLES if role == "dialogue" or role in needs]
        for role, column in roles.items():
            has_none = column in rows.column_names and kind_of(rows, column) == KINDS["null"]
            if role in needed or not has_none:
                check_text(rows, column, f"--data.{role}_column", self.source)
        counted = Counted.of(rows.select_columns(list(dict.fromkeys(self.columns))))
        for role in needed:
            counted = counted.keep(f"with a {role}", nonempty, [roles[role]], quiet=True)
            if not len(counted.rows):
                raise InputError(
                    f"{self.source}: no row of {split!r} is left ({counted}): each needs text in "
                    f"its column {roles[role]!r}; fill it in, or name another column with "
                    f"--data.{role}_column"
                )
        bounds = {"--data.min_chars": self.min_chars, "--data.max_chars": self.max_chars}
        given = [flag for flag, bound in bounds.items() if bound is not None]
        if given:
            low = "" if self.min_chars is None else f"{self.min_chars} < "
            high = "" if self.max_chars is None else f" <= {self.max_chars}"
            test = partial(within, above=self.min_chars, up_to=self.max_chars)
            counted = counted.keep(f"with {low}characters{high}", test, [roles["dialogue"]])
        if not len(counted.rows):
            raise InputError(
                f"{self.source}: no row of {split!r} is left ({counted}); change "
                f"{' and '.join(given)}, or give other data"
            )
        return counted


@dataclass(frozen=True)
class PromptForm:
    """How a row becomes a prompt and a target.

    Args:
        columns: Those of the dialogue, of the summary and of the reference.
        template: Text with ``{dialogue}`` in it.
        chat: Whether the prompt goes into the tokenizer's chat template.
        max_prompt_tokens: Tokens a prompt may have, a chat template included.
        max_target_tokens: Tokens a target may have, EOS included.
    """

    columns: tuple[str, str, str]
    template: str
    chat: bool
    max_prompt_tokens: int
    max_target_tokens: int

    def encode(
        self, encoding: Encoding, batch: dict[str, list[str | None]], places: list[int]
    ) -> dict[str, list[Any]]:
        """Fills the template and tokenizes.

        Args:
            encoding: The tokenizer.
            batch: Columns of text.
            places: Of the rows among all.

        Returns:
            ``prompt`` and ``reference`` (text), ``prompt_ids`` (at most ``max_prompt_tokens``),
            ``target_ids`` (EOS last), ``cut``, whether the dialogue had to be shortened, and
            ``index``, the place.
        """
        dialogues, summaries, references = (
            [text or "" for text in batch[column]] for column in self.columns
        )
        prompts = [self.fill(dialogue) for dialogue in dialogues]
        ids = encoding.prompt_ids(prompts, self.chat)
        cut = [len(row) > self.max_prompt_tokens for row in ids]
        for row in (row for row, long in enumerate(cut) if long):
            prompts[row] = self.shorten(encoding, dialogues[row])
            ids[row] = encoding.prompt_ids([prompts[row]], self.chat)[0]
        return {
            "prompt": prompts,
            "reference": references,
            "prompt_ids": ids,
            "target_ids": encoding.answer_ids(summaries, self.max_target_tokens),
            "cut": cut,
            "index": places,
        }

    def check(self, encoding: Encoding) -> None:
        """Makes sure that there is room for a dialogue, before many are put into the template.

        Args:
            encoding: The tokenizer.

        Raises:
            InputError: If the template alone has more than ``max_prompt_tokens``.
        """
        alone = len(encoding.prompt_ids([self.fill("")], self.chat)[0])
        if alone > self.max_prompt_tokens:
            raise InputError(
                f"--data.max_prompt_tokens={self.max_prompt_tokens}: the template alone has "
                f"{alone}; raise it"
            )

    def fill(self, dialogue: str) -> str:
        """The prompt for a dialogue."""
        return self.template.replace(FIELD, dialogue)

    def shorten(self, encoding: Encoding, dialogue: str) -> str:
        """The prompt for as much of a dialogue as fits: its end is cut, the template stays.

        Args:
            encoding: The tokenizer.
            dialogue: One whose prompt has more than ``max_prompt_tokens``; the template alone
                hasn't, see :meth:`check`.
        """

        def tokens(characters: int) -> int:
            return len(encoding.prompt_ids([self.fill(dialogue[:characters])], self.chat)[0])

        # a longer text can have fewer tokens; even so the search ends at a length that fits
        kept = bisect_right(range(len(dialogue)), self.max_prompt_tokens, key=tokens) - 1
        return self.fill(dialogue[:kept])


@dataclass(frozen=True)
class PromptCollator:
    """Makes a :class:`PromptBatch` of encoded rows.

    Args:
        pad_id: What to pad with.
        side: Where prompts are padded, ``right`` or ``left``.
    """

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

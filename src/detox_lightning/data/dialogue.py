"""Dialogues and their summaries as prompts, for the supervised stage and for PPO."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt

from detox_lightning.data.answers import gather, name_of, one_a_row
from detox_lightning.data.conversations import CONVERSATION
from detox_lightning.data.counted_rows import CountedRows, texts_in
from detox_lightning.data.encoding import count_blank
from detox_lightning.data.prompts import Batch, PromptDataModule, Texts
from detox_lightning.data.sources import check_column, check_names, has_only_nulls
from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

FIELD = "{dialogue}"
ROLES = ("dialogue", "summary", "reference")
TEMPLATE = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:\n"
NO_REFERENCE = "; --data.reference_column=null takes the summaries"
UNCOMPARED = "without a reference, which ROUGE leaves out"


class DialogueDataModule(PromptDataModule):
    """Dialogues in a prompt template, with the summaries that people wrote.

    Prompts in TRL's formats are used without the template and the bounds on characters, unless
    dialogue_column names their column. A longer prompt then loses its beginning.

    Args:
        dialogue_column: Column with the dialogues.
        summary_column: Column with the summaries to learn from, or a list of such columns; PPO also
            takes rows without one. A row may have several, in a list or in several columns: the
            supervised stage learns from each.
        reference_column: Column with the summaries that ROUGE compares with, or a list of such
            columns; of several in a row, the best counts, and a reward gets the first. null:
            summary_column.
        template: Prompt around each dialogue; must contain {dialogue} once.
        min_chars: Keep dialogues with more than this many characters. null: no bound.
        max_chars: Keep dialogues with at most this many characters. null: no bound.
        max_prompt_tokens: Largest number of tokens of a prompt. The dialogue of a longer prompt is
            cut at its end, so that the template stays whole; the number of cuts is logged.
        max_target_tokens: Largest number of tokens of a summary, end of sequence included; longer
            ones are cut.
        validation_split: Name of the split to validate on. If the source has no such split, the
            test rows are used if test_fraction is given. null: no validation.
        test_split: Name of the split to test on.
        test_fraction: Share of the training split (after the character bounds) that is cut off as
            test rows. null: test_split is used.
        shuffle_split: Draw that share at random with split_seed, instead of taking the last rows.
        split_seed: Seed of that draw.
        shared: Options of :class:`PromptDataModule` and :class:`RowsDataModule`.

    Raises:
        InputError: If the template or the character bounds make no sense.
    """

    kind = "dialogue"
    truncation_note = "dialogues were cut to prompts of {} tokens"
    takes_lists = False
    remedies: ClassVar[dict[str, str]] = {
        "validation": "; --data.test_fraction=0.2 cuts a share off the training rows, and "
        "--data.validation_split=null does without validation",
        "test": "; --data.test_fraction would cut a share off the training rows: give it to fit, "
        "too, or these rows were trained on",
    }

    def __init__(
        self,
        source: str,
        tokenizer: str | None = None,
        dialogue_column: str = "dialogue",
        summary_column: str | list[str] = "summary",
        reference_column: str | list[str] | None = None,
        template: str = TEMPLATE,
        min_chars: NonNegativeInt | None = 200,
        max_chars: PositiveInt | None = 1000,
        max_prompt_tokens: PositiveInt = 512,
        max_target_tokens: PositiveInt = 128,
        validation_split: str | None = "validation",
        test_split: str | None = "test",
        test_fraction: OpenUnitInterval | None = None,
        shuffle_split: bool = False,
        split_seed: NonNegativeInt = 42,
        **shared: Any,
    ) -> None:
        if template.count(FIELD) != 1:
            raise InputError(f"--data.template={template!r}: it must contain {FIELD} once")
        if min_chars is not None and max_chars is not None and min_chars >= max_chars:
            raise InputError(
                f"--data.min_chars={min_chars}, --data.max_chars={max_chars}: no dialogue is "
                "longer than the first and no longer than the second; raise max_chars"
            )
        if summary_column == [] or reference_column == []:
            raise InputError("--data.summary_column, --data.reference_column: [] names no column")
        super().__init__(
            source, tokenizer, validation_split=validation_split, test_split=test_split, **shared
        )
        answers = summary_column, reference_column or summary_column
        self.parts = [names if isinstance(names, list) else [names] for names in answers]
        self.columns = dialogue_column, *map(name_of, self.parts)
        self.gathered = dict(zip(self.columns[1:], self.parts, strict=True))
        self.template, self.min_chars, self.max_chars = template, min_chars, max_chars
        self.max_prompt_tokens, self.max_target_tokens = max_prompt_tokens, max_target_tokens
        self.settings = ("dialogue", self.columns, template, max_target_tokens)
        if test_fraction:
            drawn = {"test_size": test_fraction, "shuffle": shuffle_split, "seed": split_seed}
            self.shares = {"test": drawn}
            self.fallback = ("validation", "test")
            seed = ["split_seed"] if shuffle_split else []
            self.shared_by = ["test_fraction", "shuffle_split", *seed, "min_chars", "max_chars"]

    def _adopt(self, rows: "Dataset", source: str) -> "Dataset":
        rows = super()._adopt(rows, source)
        if self.as_is:
            self.template, self.min_chars, self.max_chars = FIELD, None, None
        return rows

    def _select(self, rows: "Dataset", source: str) -> "Dataset":
        rows = self._adopt(rows, source)
        for role, names in zip(ROLES[1:], self.parts, strict=True):
            rows = gather(rows, names, f"--data.{role}_column", source)
        flags: dict[str, str] = {}
        for role, column in zip(ROLES, self.columns, strict=True):
            flags.setdefault(column, f"--data.{role}_column")
        lacks = len(flags) == len(ROLES) and self.columns[2] not in rows.column_names
        check_names(rows, flags, source, NO_REFERENCE if lacks else "")
        for role, column in zip(ROLES, self.columns, strict=True):
            must_be = role in ("dialogue", *self._needs) and not self.as_is
            if must_be or not has_only_nulls(rows, column):
                flag = f"--data.{role}_column"
                check_column(
                    rows, column, "text" if role == "dialogue" else "answers", flag, source
                )
        check_names(rows, self._extra, source)
        used = dict.fromkeys((*flags, *self._extra, CONVERSATION))
        return rows.select_columns([column for column in used if column in rows.column_names])

    def _keep_usable(self, rows: CountedRows, where: str) -> CountedRows:
        for role, column in zip(ROLES, self.columns, strict=True):
            if role in ("dialogue", *self._needs):
                rows = self._with_text(rows, role, column, where)
        bounds = {"--data.min_chars": self.min_chars, "--data.max_chars": self.max_chars}
        flags = [flag for flag, bound in bounds.items() if bound is not None]
        if flags:
            low = "" if self.min_chars is None else f"{self.min_chars} < "
            high = "" if self.max_chars is None else f" <= {self.max_chars}"
            test = partial(_within, above=self.min_chars, up_to=self.max_chars)
            rows = rows.filter(f"with {low}characters{high}", test, self.columns[0], True)
        return rows.require_rows(where, f"; change {' and '.join(flags)}, or give other data")

    def _encode(self, split: str, rows: CountedRows) -> CountedRows:
        if split == "train" and "summary" in self._needs:
            rows = one_a_row(rows, self.columns[1], "pairs of a dialogue and a summary")
        return super()._encode(split, rows)

    def _fill(self, text: str) -> str:
        return self.template.replace(FIELD, text)

    def _divide(self, batch: Batch, whole: bool) -> Texts:
        dialogues, summaries, references = (batch[column] for column in self.columns)
        firsts = [(texts_in(summary) or [""])[0] for summary in summaries]
        return (
            [text or "" for text in dialogues],
            [texts_in(x) if isinstance(x, list) else x or "" for x in references],
            self.encoding.answer_ids(firsts, self.max_target_tokens),
        )

    def _shorten(self, text: str) -> str:
        if self.as_is:
            length = self._longest_fitting(range(1, len(text)), lambda length: text[-length:])
            return text[-length:] if length else ""
        end = self._longest_fitting(range(len(text)), lambda end: self._fill(text[:end]))
        return self._fill(text[: end or 0])

    def _notes(self, split: str, encoded: "Dataset") -> dict[str, int]:
        alone = 0 if split == "predict" else count_blank(encoded, "reference")
        return super()._notes(split, encoded) | {UNCOMPARED: alone}


def _within(texts: list[str], above: int | None, up_to: int | None) -> list[bool]:
    low, high = -1 if above is None else above, math.inf if up_to is None else up_to
    return [low < len(text) <= high for text in texts]

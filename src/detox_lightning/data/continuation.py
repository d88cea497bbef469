"""Prompts to continue, such as RealToxicityPrompts', for PPO."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import ClosedUnitInterval, OpenUnitInterval, PositiveInt

from detox_lightning.data.conversations import CONVERSATION
from detox_lightning.data.counted_rows import CountedRows, known, nonempty
from detox_lightning.data.prompts import Batch, PromptDataModule, Texts, divide_words, word_ends
from detox_lightning.data.sources import (
    MissingSplit,
    check_column,
    check_names,
    has_only_nulls,
)
from detox_lightning.errors import InputError
from detox_lightning.seeding import derive_seed

if TYPE_CHECKING:
    from datasets import Dataset


class ContinuationDataModule(PromptDataModule):
    """Prompts that a model continues.

    Columns are those of RealToxicityPrompts (https://arxiv.org/abs/2009.11462) unless you name
    others; a dot leads into nested columns.

    Args:
        prompt_column: Column with the prompts.
        continuation_column: Column with the continuations that people wrote, with which ROUGE
            compares. null, or a column that does not exist: there are none.
        toxicity_column: Column with the toxicity of each prompt, from 0 to 1, for min_toxicity.
        min_toxicity: Keep prompts of at least this toxicity; prompts of unknown toxicity are left
            out, and counted. null: no bound.
        prompt_share: prompt_column holds whole texts: this share of their words, rounded down, is
            the prompt, and the rest is the continuation. null: it holds prompts.
        max_prompt_tokens: Largest number of tokens of a prompt, its chat template included.
        long_prompts: Whether longer prompts are left out, or cut after the last word that fits; the
            number is logged. Those of predict_source are always cut.
        validation_split: Name of the split to validate on. null: a share of train_split.
        validation_fraction: That share. null: no validation.
        test_split: Name of the split to test on. null: a share of train_split.
        test_fraction: That share. null: there are no test rows.
        split_seed: The share that a prompt belongs to is a function of this seed and its text, so
            that equal prompts are never in two shares, whatever else the source holds.
        shared: Options of :class:`PromptDataModule` and :class:`RowsDataModule`.

    Raises:
        InputError: If the shares leave nothing to train on.
    """

    kind = "prompt"
    truncation_note = "prompts were cut to {} tokens"
    shared_by: Sequence[str] = (
        *("test_fraction", "test_split", "validation_fraction", "validation_split", "split_seed"),
        *("prompt_column", "prompt_share"),
    )

    def __init__(
        self,
        source: str | list[str],
        tokenizer: str | None = None,
        prompt_column: str = "prompt.text",
        continuation_column: str | None = "continuation.text",
        toxicity_column: str = "prompt.toxicity",
        min_toxicity: ClosedUnitInterval | None = None,
        prompt_share: OpenUnitInterval | None = None,
        max_prompt_tokens: PositiveInt = 64,
        long_prompts: Literal["leave_out", "cut"] = "leave_out",
        validation_split: str | None = None,
        validation_fraction: OpenUnitInterval | None = 0.1,
        test_split: str | None = None,
        test_fraction: OpenUnitInterval | None = 0.1,
        split_seed: int = 42,
        **shared: Any,
    ) -> None:
        test_end = 0.0 if test_split else test_fraction or 0.0
        validation = 0.0 if validation_split else validation_fraction or 0.0
        if (train_start := test_end + validation) >= 1:
            raise InputError(
                f"--data.test_fraction={test_end}, --data.validation_fraction={validation}: these "
                "shares leave nothing to train on; lower them"
            )
        super().__init__(
            source, tokenizer, validation_split=validation_split, test_split=test_split, **shared
        )
        self.prompt, self.continuation = prompt_column, continuation_column
        self.columns = (prompt_column, *([continuation_column] if continuation_column else []))
        self.toxicity, self.min_toxicity = toxicity_column, min_toxicity
        self.prompt_share, self.cuts_long = prompt_share, long_prompts == "cut"
        self.max_prompt_tokens, self.split_seed = max_prompt_tokens, split_seed
        self.settings = ("continuation", prompt_column, continuation_column, prompt_share)
        bounds = {"test": (0.0, test_end), "validation": (test_end, train_start)}
        if train_start:
            bounds["train"] = (train_start, 1.0)
        # where the shares of the training rows begin and end
        self.shares = {split: (low, high) for split, (low, high) in bounds.items() if low < high}

    def _choose(self, split: str) -> CountedRows:
        if split in self.shares:
            self.share_read = split
            return self._read("train")
        if self.splits.get(split, split) is None:
            raise MissingSplit(
                f"--data.{split}_split=null, --data.{split}_fraction=null: there are no such rows; "
                "name a split or give a share"
            )
        return self._read(split)

    def _select(self, rows: "Dataset", source: str) -> "Dataset":
        rows = self._adopt(rows, source)
        flag = f"--data.min_toxicity={self.min_toxicity}, --data.toxicity_column"
        scores = {} if self.min_toxicity is None else {self.toxicity: flag}
        check_names(rows, {self.prompt: "--data.prompt_column"} | scores, source)
        check_column(rows, self.prompt, "text", "--data.prompt_column", source)
        check_names(rows, self._extra, source)
        columns, column = [self.prompt, *self._extra], self.continuation
        if CONVERSATION in rows.column_names:
            columns.append(CONVERSATION)
            if self.prompt_share:
                raise InputError(
                    f"--data.prompt_share={self.prompt_share}: {source} has prompts in TRL's "
                    "format, which are not divided; leave this out, or name --data.prompt_column"
                )
        if column and column in rows.column_names and not has_only_nulls(rows, column):
            check_column(rows, column, "text", "--data.continuation_column", source)
            columns.append(column)
        if self.min_toxicity is not None:
            from datasets import Value

            check_column(rows, self.toxicity, "scores", flag, source)
            columns.append(self.toxicity)
            if rows.features[self.toxicity].dtype != "float64":  # as another source's may be
                rows = rows.cast_column(self.toxicity, Value("float64"))
        return rows.select_columns(list(dict.fromkeys(columns)))

    def _keep_usable(self, rows: CountedRows, where: str) -> CountedRows:
        rows = self._with_text(rows, "prompt", self.prompt, where)
        if self.min_toxicity is None:
            return rows
        rows = rows.filter("with a known toxicity", known, self.toxicity)
        phrase = f"with a toxicity of at least {self.min_toxicity}"
        test = partial(_reaches, least=float(self.min_toxicity))
        return rows.filter(phrase, test, self.toxicity, log_always=True)

    def _encode(self, split: str, rows: CountedRows) -> CountedRows:
        rows = super()._encode(split, rows)
        if split == "predict":
            return rows
        names = ", ".join(self.sources)
        if "reference" in self._needs:
            rows = rows.filter("with a reference", nonempty, "reference").require_rows(
                f"{names}: the reward compares with people's continuations, and no row has one",
                "; name their column with --data.continuation_column, give --data.prompt_share, or "
                "take another reward",
            )
        if split in self.shares:  # of encoded rows, as different texts may begin with one prompt
            low, high = self.shares[split]
            test = partial(_is_drawn, low=low, high=high, seed=self.split_seed)
            rows = rows.filter(f"drawn for {split}", test, "prompt", log_always=True)
            rows = rows._replace(rows=rows.rows.flatten_indices())
        return rows.require_rows(
            f"{names}: no row is left for {split}",
            "; change --data.min_toxicity, --data.max_prompt_tokens or the shares, or give other "
            "data",
        ).at_most(self.limits[split])

    def _divide(self, batch: Batch, whole: bool) -> Texts:
        prompts = list(batch[self.prompt])
        references = batch.get(self.continuation or "") or [""] * len(prompts)
        if self.prompt_share is not None and not whole:
            pairs = [divide_words(text, self.prompt_share) for text in prompts]
            prompts, references = map(list, zip(*pairs, strict=True))
        return prompts, [reference or "" for reference in references], [[] for _ in prompts]

    def _shorten(self, text: str) -> str:
        for ends in (word_ends(text), range(1, len(text))):  # of a single word characters fit
            if end := self._longest_fitting(ends, lambda end: text[:end]):
                return text[:end]
        raise InputError(
            f"--data.max_prompt_tokens={self.max_prompt_tokens}: a single character has "
            f"{self._tokens(text[:1])}, with what the tokenizer and its chat template add; raise it"
        )


def _reaches(numbers: list[float], least: float) -> list[bool]:
    return [number >= least for number in numbers]


def _is_drawn(texts: list[str], low: float, high: float, seed: int) -> list[bool]:
    """Returns for each text whether it is in the share from ``low`` up to ``high``."""
    positions = (derive_seed(seed, "share", text) / 2**63 for text in texts)
    # the largest seeds round to 1
    return [low <= min(position, 1 - 2**-53) < high for position in positions]

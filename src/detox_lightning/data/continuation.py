"""Prompts to go on from, such as RealToxicityPrompts', for PPO."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, OpenUnitInterval, PositiveInt

from detox_lightning.data.continuations import ContinuationForm, Continuations
from detox_lightning.data.counted import Counted, drawn, nonempty
from detox_lightning.data.encoding import Encoding
from detox_lightning.data.loaders import Feed
from detox_lightning.data.predict_rows import Questions
from detox_lightning.data.prompt_module import PromptDataModule
from detox_lightning.data.sources import MissingSplit, names_of
from detox_lightning.errors import InputError


class ContinuationDataModule(PromptDataModule):
    """Prompts as they are, for models that go on writing.

    Columns are those of RealToxicityPrompts (https://arxiv.org/abs/2009.11462) unless you name
    others; a dot leads into columns within columns. Training batches are drawn in an order that is
    a function of the seed and the epoch; a resumed run goes on with the next batch. Validation,
    test and prediction (on predict_source, else on the test rows) go through their rows in order,
    each row once.

    Args:
        source: Hub id, demo:NAME, a folder with files train, validation and test (.jsonl, .json,
            .csv, also with .gz, or .parquet), or one such file, whose rows are the split train.
            A list: the rows of all of them together.
        tokenizer: Hub id or folder of the tokenizer. null: the model's own.
        prompt_column: Column with the prompts.
        continuation_column: Column with how people went on, which ROUGE compares with. null, or a
            column that isn't there: nothing is compared.
        toxicity_column: Column with the prompts' toxicity, from 0 to 1, for min_toxicity.
        min_toxicity: Keep prompts that are at least so toxic; those whose toxicity isn't known are
            left out, and counted. null: no bound.
        prompt_share: The column holds whole texts: this share of their words, rounded down, is the
            prompt, and the rest is how people went on. null: the column holds prompts.
        chat_template: Put each prompt into the tokenizer's chat template, as what the user says.
        max_prompt_tokens: Tokens a prompt may have, its chat template included.
        long_prompts: Whether longer ones are left out, or cut after the last word that fits; how
            many is logged. Those of predict_source are cut.
        train_split: Name of the split to train on.
        validation_split: Name of the split to validate on. null: a share of train_split.
        validation_fraction: That share. null: no validation.
        test_split: Name of the split to test on. null: a share of train_split.
        test_fraction: That share. null: there are no test rows.
        split_seed: Which prompts make up the shares is a function of this and their text: equal
            prompts are never in two of them, whatever else the source holds.
        num_samples: Use at most this many training rows, the first ones. null: all.
        num_eval_samples: Use at most this many rows to validate and to test. null: all.
        predict_source: Prompts that predict goes on from, each of them, whatever the bounds above:
            a .txt file (one prompt a line), a .jsonl, .json, .csv or .parquet file with the
            prompt column, or - for standard input (lines of text, or of JSON objects with that
            column). null: the test rows.
        batch_size: Prompts a training step, on each device.
        eval_batch_size: Prompts a step in validation, test and prediction. null: batch_size.
        num_workers: Processes that prepare batches. 0: the training process does it.
        seed: Seed of the order of batches. null: --seed_everything.

    Raises:
        InputError: If the shares leave nothing to train on.
    """

    def __init__(
        self,
        source: str | list[str],
        tokenizer: str | None = None,
        prompt_column: str = "prompt.text",
        continuation_column: str | None = "continuation.text",
        toxicity_column: str = "prompt.toxicity",
        min_toxicity: ClosedUnitInterval | None = None,
        prompt_share: OpenUnitInterval | None = None,
        chat_template: bool = False,
        max_prompt_tokens: PositiveInt = 64,
        long_prompts: Literal["leave_out", "cut"] = "leave_out",
        train_split: str = "train",
        validation_split: str | None = None,
        validation_fraction: OpenUnitInterval | None = 0.1,
        test_split: str | None = None,
        test_fraction: OpenUnitInterval | None = 0.1,
        split_seed: int = 42,
        num_samples: PositiveInt | None = None,
        num_eval_samples: PositiveInt | None = None,
        predict_source: str | None = None,
        batch_size: PositiveInt = 16,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        seed: int | None = None,
    ) -> None:
        tested = 0.0 if test_split else test_fraction or 0.0
        validated = 0.0 if validation_split else validation_fraction or 0.0
        if tested + validated >= 1:
            raise InputError(
                f"--data.test_fraction={tested}, --data.validation_fraction={validated}: these "
                "shares leave nothing to train on; lower them"
            )
        asked = (prompt_column, *([continuation_column] if continuation_column else []))
        rows = ContinuationRows(
            Continuations(
                names_of(source),
                prompt_column,
                continuation_column,
                toxicity_column,
                min_toxicity,
            ),
            ContinuationForm(
                prompt_column,
                continuation_column,
                prompt_share,
                chat_template,
                max_prompt_tokens,
                long_prompts == "cut",
            ),
            {"train": train_split, "validation": validation_split, "test": test_split},
            {"test": (0.0, tested), "validation": (tested, tested + validated)}
            | {"train": (tested + validated, 1.0)},
            split_seed,
            {"train": num_samples, "validation": num_eval_samples, "test": num_eval_samples},
            None if predict_source is None else Questions(predict_source, asked, "prompt"),
        )
        super().__init__(rows, tokenizer, Feed(batch_size, eval_batch_size, num_workers, seed))
        self.save_hyperparameters(logger=False)


@dataclass(frozen=True)
class ContinuationRows:
    """The rows of each part, as :class:`~detox_lightning.data.prompt_module.PromptRows` has it.

    Args:
        continuations: Which rows of the source are used.
        form: How they become prompts.
        splits: The split of each part; None: a share of the training split.
        shares: Of the training split, where each part's share begins and ends.
        seed: Of the shares.
        limits: The most rows of each part; None: all.
        questions: What predict goes on from; None: the test rows.
    """

    continuations: Continuations
    form: ContinuationForm
    splits: dict[str, str | None]
    shares: dict[str, tuple[float, float]]
    seed: int
    limits: dict[str, int | None]
    questions: Questions | None

    @property
    def sources(self) -> list[str]:
        """What the rows are read from."""
        return list(self.continuations.sources)

    @property
    def validates(self) -> bool:
        """Whether there are validation rows."""
        return bool(self.splits["validation"]) or self._has_share("validation")

    @property
    def predicted(self) -> str:
        """The part whose rows predict answers."""
        return "test" if self.questions is None else "predict"

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have."""
        return self.form.limit

    @property
    def longest_target(self) -> int:
        """Tokens that an answer to learn may have."""
        return 0

    @property
    def cutting(self) -> str:
        """What was done to prompts that were too long."""
        return f"prompts were cut to {self.form.limit} tokens"

    @property
    def compares(self) -> bool:
        """Whether rows usually have an answer of people's."""
        return False

    def choose(self, part: str, processes: int, needs: Collection[str]) -> Counted:
        """Reads the rows of a part: its own split, or all training rows to draw it from."""
        if self.questions is not None and part == "predict":
            return Counted.of(self.questions.read(processes))
        if part != "train" and not self.splits[part] and not self._has_share(part):
            raise MissingSplit(
                f"--data.{part}_split=null, --data.{part}_fraction=null: there are no such rows; "
                "name a split or give a share"
            )
        named = part if self.splits[part] else "train"
        return self.continuations.read(self.splits[named] or "", f"--data.{named}_split")

    def encode(
        self, part: str, chosen: Counted, encoding: Encoding, needs: Collection[str]
    ) -> Counted:
        """Its prompts; see :class:`~detox_lightning.data.prompt_module.PromptRows`."""
        self.form.check(encoding)
        if part == "predict":
            return self.form.whole.encoded(chosen, encoding)
        rows = self.form.encoded(chosen, encoding)
        if "reference" in needs:
            rows = self._with_reference(rows)
        if self._is_drawn(part):
            # of the encoded rows, as texts that differ may begin with the same prompt
            low, high = self.shares[part]
            test = partial(drawn, low=low, high=high, seed=self.seed)
            rows = rows.keep(f"drawn for {part}", test, ["prompt"])
            rows = rows._replace(rows=rows.rows.flatten_indices())
        if not len(rows.rows):
            raise InputError(
                f"{', '.join(self.sources)}: no row is left for {part} ({rows}); change "
                "--data.min_toxicity, --data.max_prompt_tokens or the shares, or give other data"
            )
        return rows.at_most(self.limits[part])

    def _with_reference(self, rows: Counted) -> Counted:
        """The rows that say how people went on."""
        kept = rows.keep("with a reference", nonempty, ["reference"], quiet=True)
        if not len(kept.rows):
            raise InputError(
                f"{', '.join(self.sources)}: the reward compares with how people went on, and no "
                f"row says it ({kept}); name their column with --data.continuation_column, give "
                "--data.prompt_share, or take another reward"
            )
        return kept

    def _is_drawn(self, part: str) -> bool:
        """Whether a part is a share of the training split."""
        return self.shares[part] != (0, 1) and (part == "train" or not self.splits[part])

    def _has_share(self, part: str) -> bool:
        low, high = self.shares[part]
        return low < high

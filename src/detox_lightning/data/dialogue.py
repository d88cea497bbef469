"""Dialogues and their summaries as prompts, for the supervised stage and for PPO."""

from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass
from functools import partial

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.data.counted import Counted
from detox_lightning.data.encoding import Encoding
from detox_lightning.data.loaders import Feed
from detox_lightning.data.predict_rows import Questions
from detox_lightning.data.prompt_module import PromptDataModule
from detox_lightning.data.prompts import FIELD, Dialogues, PromptForm
from detox_lightning.data.sources import MissingSplit, names_of
from detox_lightning.errors import InputError

TEMPLATE = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:\n"


class DialogueDataModule(PromptDataModule):
    """Dialogues in a prompt template, with the summaries people wrote.

    Training batches are drawn in an order that is a function of the seed and the epoch; a resumed
    run goes on with the next batch. Validation, test and prediction (on predict_source, else on the
    test rows) go through their rows in order, each row once.

    Args:
        source: Hub id, demo:NAME, a folder with files train, validation and test (.jsonl, .json,
            .csv, also with .gz, or .parquet), or one such file, whose rows are the split train.
        tokenizer: Hub id or folder of the tokenizer. null: the model's own.
        dialogue_column: Column with the dialogues.
        summary_column: Column with the summaries to learn from; PPO takes empty ones, too.
        reference_column: Column with the summaries ROUGE compares with. null: summary_column.
        template: Prompt around each dialogue; must contain {dialogue} once.
        chat_template: Put each prompt into the tokenizer's chat template, as what the user says.
        min_chars: Keep dialogues with more than this many characters. null: no bound.
        max_chars: Keep dialogues with at most this many characters. null: no bound.
        max_prompt_tokens: Tokens a prompt may have. In longer ones the dialogue is cut at its end,
            so that the template stays whole; how many is logged.
        max_target_tokens: Tokens a summary may have, end of sequence included; cut if longer.
        train_split: Name of the split to train on.
        validation_split: Name of the split to validate on. If the source has no such split, the
            test rows are used where test_fraction makes them. null: no validation.
        test_split: Name of the split to test on.
        test_fraction: Cut this share of the training split (after the character bounds) off as
            test rows, instead of using test_split.
        shuffle_split: Draw the share at random with split_seed, instead of taking the last rows.
        split_seed: Seed of that draw.
        num_samples: Use at most this many training rows, the first ones. null: all.
        num_eval_samples: Use at most this many rows to validate and to test. null: all.
        predict_source: Dialogues that predict answers, each of them, whatever the bounds above:
            a .txt file (one dialogue a line), a .jsonl, .json, .csv or .parquet file with the
            dialogue column, or - for standard input (lines of text, or of JSON objects with that
            column). Summaries and references may be missing. null: the test rows.
        batch_size: Prompts a training step, on each device.
        eval_batch_size: Prompts a step in validation, test and prediction. null: batch_size.
        num_workers: Processes that prepare batches. 0: the training process does it.
        seed: Seed of the order of batches. null: --seed_everything.

    Raises:
        InputError: If the template or the character bounds make no sense.
    """

    def __init__(
        self,
        source: str,
        tokenizer: str | None = None,
        dialogue_column: str = "dialogue",
        summary_column: str = "summary",
        reference_column: str | None = None,
        template: str = TEMPLATE,
        chat_template: bool = False,
        min_chars: NonNegativeInt | None = 200,
        max_chars: PositiveInt | None = 1000,
        max_prompt_tokens: PositiveInt = 512,
        max_target_tokens: PositiveInt = 128,
        train_split: str = "train",
        validation_split: str | None = "validation",
        test_split: str | None = "test",
        test_fraction: OpenUnitInterval | None = None,
        shuffle_split: bool = False,
        split_seed: NonNegativeInt = 42,
        num_samples: PositiveInt | None = None,
        num_eval_samples: PositiveInt | None = None,
        predict_source: str | None = None,
        batch_size: PositiveInt = 16,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        seed: int | None = None,
    ) -> None:
        if template.count(FIELD) != 1:
            raise InputError(f"--data.template={template!r}: it must contain {FIELD} once")
        if min_chars is not None and max_chars is not None and min_chars >= max_chars:
            raise InputError(
                f"--data.min_chars={min_chars}, --data.max_chars={max_chars}: no dialogue is "
                "longer than the first and no longer than the second; raise max_chars"
            )
        names_of(source)
        columns = (dialogue_column, summary_column, reference_column or summary_column)
        self.dialogues = Dialogues(source, columns, min_chars, max_chars)
        rows = DialogueRows(
            self.dialogues,
            PromptForm(columns, template, chat_template, max_prompt_tokens, max_target_tokens),
            {"train": train_split, "validation": validation_split, "test": test_split},
            {"train": num_samples, "validation": num_eval_samples, "test": num_eval_samples},
            test_fraction
            and partial(
                Counted.cut,
                fraction=test_fraction,
                shuffle=shuffle_split,
                seed=split_seed,
                flag="--data.test_fraction",
            ),
            None if predict_source is None else Questions(predict_source, columns),
        )
        super().__init__(rows, tokenizer, Feed(batch_size, eval_batch_size, num_workers, seed))
        self.save_hyperparameters(logger=False)


@dataclass(frozen=True)
class DialogueRows:
    """The rows of each part, as :class:`~detox_lightning.data.prompt_module.PromptRows` has it.

    Args:
        dialogues: Which rows of the source are used.
        form: How they become prompts.
        splits: The split of each part; None: there is none.
        limits: The most rows of each part; None: all.
        cut: Cuts the test rows off the training split; None: they are a split.
        questions: What predict answers; None: the test rows.
    """

    dialogues: Dialogues
    form: PromptForm
    splits: dict[str, str | None]
    limits: dict[str, int | None]
    cut: Callable[[Counted], tuple[Counted, Counted]] | None
    questions: Questions | None

    @property
    def sources(self) -> list[str]:
        """What the rows are read from."""
        return [self.dialogues.source]

    @property
    def validates(self) -> bool:
        """Whether there are validation rows."""
        return self.splits["validation"] is not None

    @property
    def predicted(self) -> str:
        """The part whose rows predict answers."""
        return "test" if self.questions is None else "predict"

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have."""
        return self.form.max_prompt_tokens

    @property
    def longest_target(self) -> int:
        """Tokens that an answer to learn may have."""
        return self.form.max_target_tokens

    @property
    def cutting(self) -> str:
        """What was done to dialogues that were too long."""
        return f"dialogues were cut to prompts of {self.form.max_prompt_tokens} tokens"

    @property
    def compares(self) -> bool:
        """Whether rows usually have an answer of people's."""
        return True

    def choose(self, part: str, processes: int, needs: Collection[str]) -> Counted:
        """Its rows; see :class:`~detox_lightning.data.prompt_module.PromptRows`."""
        if self.questions is not None and part == "predict":
            return Counted.of(self.questions.read(processes))
        return self._choose(part, needs).at_most(self.limits[part])

    def encode(
        self, part: str, chosen: Counted, encoding: Encoding, needs: Collection[str]
    ) -> Counted:
        """Its prompts; see :class:`~detox_lightning.data.prompt_module.PromptRows`."""
        self.form.check(encoding)
        encode = partial(self.form.encode, encoding)
        template = encoding.chat_template if self.form.chat else None
        terms = ("dialogue", *astuple(self.form), template, encoding.padding_side)
        rows = encoding.encode(chosen.rows, encode, *terms)
        return chosen._replace(rows=rows)

    def _choose(self, part: str, needs: Collection[str]) -> Counted:
        if self.cut and part != "validation":
            stay, off = self.cut(self._read("train", needs))
            return stay if part == "train" else off
        try:
            return self._read(part, needs)
        except MissingSplit as error:
            if part == "test":
                raise InputError(
                    f"{error}; --data.test_fraction would cut a share off the training rows"
                ) from error
            if part != "validation":
                raise
            if not self.cut:
                raise InputError(f"{error}; --data.validation_split=null does without") from error
            rank_zero_info(f"{error}: the test rows are used to validate")
            return self._choose("test", needs)

    def _read(self, part: str, needs: Collection[str]) -> Counted:
        split, flag = self.splits[part], f"--data.{part}_split"
        if split is None:
            raise MissingSplit(f"{flag}=null: there are no such rows; name a split")
        return self.dialogues.read(split, flag, needs)

"""Texts with a class each, for the reward stage."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from detox_lightning.batches import LabeledBatch
from detox_lightning.data.counted import Counted, parts_needed
from detox_lightning.data.encoding import Encoding, count_cut
from detox_lightning.data.labels import (
    Classes,
    LabeledCollator,
    LabeledTexts,
    by_name,
    encode_texts,
)
from detox_lightning.data.loaders import Feed
from detox_lightning.data.read_errors import caching
from detox_lightning.data.sources import MissingSplit, names_of
from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

LABELS = ("nothate", "hate")  # where no model says others


class LabeledTextDataModule(LightningDataModule):
    """Texts with a class each.

    Training batches are drawn in an order that is a function of the seed and the epoch; a resumed
    run goes on with the next batch. Validation, test and prediction (on the test rows) go through
    their rows in order, each row once.

    Args:
        source: Hub id, demo:NAME, a folder with files train, validation and test (.jsonl, .json,
            .csv, also with .gz, or .parquet), or one such file, whose rows are the split train.
            A list: the rows of all of them together.
        tokenizer: Hub id or folder of the tokenizer. null: the model's own.
        text_column: Column with the texts.
        label_column: Column with the labels: names, or whole numbers, which label_map must name.
        labels: Class names. null: the model's, which these must be if they are given.
        label_map: What other labels in the data mean, such as {offensive: nothate} or {0: hate}.
        max_tokens: Tokens a text may have; what is beyond them is cut off, how often is logged.
        train_split: Name of the split to train on.
        validation_split: Name of the split to validate on. null: a share of train_split.
        validation_fraction: That share, drawn at random with split_seed. null: no validation.
        test_split: Name of the split to test on. null, or a source without it: validation rows.
        split_seed: Seed of that draw.
        num_samples: Use at most this many training rows, the first ones. null: all.
        num_eval_samples: Use at most this many rows to validate and to test. null: all.
        batch_size: Texts a training step, on each device.
        eval_batch_size: Texts a step in validation, test and prediction. null: batch_size.
        num_workers: Processes that prepare batches. 0: the training process does it.
        seed: Seed of the order of batches. null: --seed_everything.

    Raises:
        InputError: If ``labels`` has doubles or less than two names, or ``label_map`` others.
            Labels that are the model's are looked at when they are known.
    """

    def __init__(
        self,
        source: str | list[str],
        tokenizer: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        labels: Sequence[str] | None = None,
        label_map: dict[str, str] | None = None,
        max_tokens: PositiveInt = 128,
        train_split: str = "train",
        validation_split: str | None = None,
        validation_fraction: OpenUnitInterval | None = 0.1,
        test_split: str | None = "test",
        split_seed: NonNegativeInt = 42,
        num_samples: PositiveInt | None = None,
        num_eval_samples: PositiveInt | None = None,
        batch_size: PositiveInt = 16,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.label_map = by_name(label_map or {})
        self.labels = labels
        if labels is not None:
            Classes(tuple(labels), self.label_map)
        self.sources = names_of(source)
        self.columns = text_column, label_column
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.splits = {"train": train_split, "validation": validation_split, "test": test_split}
        self.validation_fraction, self.split_seed = validation_fraction, split_seed
        self.num_samples, self.num_eval_samples = num_samples, num_eval_samples
        self.batch_size = batch_size
        self.feed = Feed(batch_size, eval_batch_size, num_workers, seed)
        self._encoding: Encoding | None = None
        self._rows: dict[str, Dataset] = {}

    @property
    def label_names(self) -> list[str]:
        """The class names in order of their index: the model's, if there is one with labels.

        Raises:
            InputError: If ``labels`` are others, or the same in another order.
        """
        model = getattr(self.trainer, "lightning_module", None)
        own: list[str] | None = getattr(model, "labels", None)
        given = None if self.labels is None else list(self.labels)
        if own and given and own != given:
            raise InputError(
                f"--data.labels={given} are not --model.labels={own}, in this order, by which the "
                "classifier's outputs are named: leave --data.labels out, and name all classes in "
                "--model.labels"
            )
        return own or given or list(LABELS)

    @property
    def texts(self) -> LabeledTexts:
        """The rows as the sources have them."""
        flag = "--model.labels" if self.labels is None else "--data.labels"
        classes = Classes(tuple(self.label_names), self.label_map, flag)
        return LabeledTexts(self.sources, *self.columns, classes)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that a text may have."""
        return self.max_tokens

    @property
    def max_target_tokens(self) -> int:
        """0: there are no answers to learn from."""
        return 0

    @property
    def validates(self) -> bool:
        """Whether there are validation rows."""
        return bool(self.splits["validation"] or self.validation_fraction)

    @property
    def encoding(self) -> Encoding:
        """The tokenizer, opened when first asked for."""
        if self._encoding is None:
            self._encoding = Encoding(self.tokenizer, self.trainer)
        return self._encoding

    def rows(self, part: str) -> "Dataset":
        """The encoded rows of a part, from the cache if it has them.

        Args:
            part: ``train``, ``validation`` or ``test``.

        Returns:
            Columns ``input_ids``, ``label`` and ``cut``.

        Raises:
            InputError: If the source hasn't got them, or no row is left.
        """
        if part not in self._rows:
            limit = self.num_samples if part == "train" else self.num_eval_samples
            with caching():
                chosen = self._choose(part).at_most(limit)
                encode = partial(encode_texts, self.encoding, self.max_tokens)
                encoded = self.encoding.encode(chosen.rows, encode, "labeled", self.max_tokens)
            cut = f"texts were cut at {self.max_tokens} tokens"
            chosen.report(part, {cut: count_cut(encoded)})
            if part != "train" and (missing := self.texts.classes.missing(encoded)):
                rank_zero_warn(
                    f"{part}: no row has the label {', '.join(missing)}: F1 and AUROC tell nothing "
                    "of it"
                )
            self._rows[part] = encoded
        return self._rows[part]

    def _choose(self, part: str) -> Counted:
        """The rows of a part, before they are encoded."""
        if part == "test":
            try:
                return self._read("test")
            except MissingSplit as error:
                rank_zero_info(f"{error}: the validation rows are used to test")
                return self._choose("validation")
        if self.splits["validation"] or not self.validation_fraction:
            return self._read(part)
        stay, off = self._read("train").cut(
            self.validation_fraction, True, self.split_seed, "--data.validation_fraction"
        )
        return stay if part == "train" else off

    def _read(self, part: str) -> Counted:
        split, flag = self.splits[part], f"--data.{part}_split"
        if split is None:
            raise MissingSplit(f"{flag}=null: there are no such rows; name a split")
        return self.texts.read(split, flag)

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each node."""
        self.setup("")

    def setup(self, stage: str) -> None:
        """Opens what the trainer's job needs, from the cache."""
        for part in parts_needed(self.trainer, self.validates):
            rows = self.rows(part)
            if part == "train":
                self.texts.check_learnable(rows)
                self.feed.check(len(rows), self.trainer)

    def train_dataloader(self) -> DataLoader[LabeledBatch]:
        """Full batches in the order of (seed, epoch), from the checkpoint's place on."""
        return self.feed.train(
            self.rows("train"), LabeledCollator(self.encoding.pad_id), self.trainer
        )

    def val_dataloader(self) -> DataLoader[LabeledBatch] | list[Any]:
        """All validation rows in order; an empty list without validation."""
        if not self.validates:
            return []
        return self.feed.evaluation(
            self.rows("validation"), LabeledCollator(self.encoding.pad_id), self.trainer
        )

    def test_dataloader(self) -> DataLoader[LabeledBatch]:
        """All test rows in order."""
        return self.feed.evaluation(
            self.rows("test"), LabeledCollator(self.encoding.pad_id), self.trainer
        )

    def predict_dataloader(self) -> DataLoader[LabeledBatch]:
        """The test rows."""
        return self.test_dataloader()

    def teardown(self, stage: str) -> None:
        """Lets another ``fit`` begin at the beginning."""
        self.feed.forget()

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, see :meth:`Feed.state`, and of which data."""
        return {"sources": list(self.sources), **self.feed.state(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the place of the checkpoint; warns if the data has another name."""
        if (sources := state_dict.get("sources", [*self.sources])) != [*self.sources]:
            rank_zero_warn(
                f"the checkpoint was made on the data {', '.join(sources)}; this run goes on with "
                f"{', '.join(self.sources)}"
            )
        self.feed.load(state_dict, self.trainer)

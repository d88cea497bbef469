"""The data module that the three kinds of data share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from detox_lightning.data.counted_rows import CountedRows
from detox_lightning.data.encoding import Encoding, count_cut
from detox_lightning.data.loaders import Loaders
from detox_lightning.data.locations import caching
from detox_lightning.data.sources import MissingSplit, load_rows, names_of
from detox_lightning.errors import InputError
from detox_lightning.protocols import Stage, stage_of

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}
VERBS = {"validation": "validate", "test": "test"}


class RowsDataModule(LightningDataModule, ABC):
    """The options that all data modules share; a subclass chooses the rows and encodes them.

    The order of training batches is a function of the seed and the epoch, and a resumed run
    continues it. Validation, test and prediction use each of their rows once, in order.

    Args:
        source: Hub id, demo:NAME, a folder with files train, validation and test (.jsonl, .json,
            .csv, .tsv, also with .gz, or .parquet), or one such file, whose rows are the split
            train. A list of sources, where one is accepted, gives the rows of all of them.
        tokenizer: Hub id or folder of the tokenizer. null: the model's own.
        train_split: Name of the split to train on.
        validation_split: Name of the split to validate on. null: none.
        test_split: Name of the split to test on. null: none.
        num_samples: Use at most this many training rows, the first ones. null: all.
        num_eval_samples: Use at most this many rows to validate and to test. null: all.
        batch_size: Rows per training step, on each device.
        eval_batch_size: Rows per step of validation, test and prediction. null: batch_size.
        num_workers: Processes that prepare batches. 0: the training process does it.
        seed: Seed of the order of batches. null: --seed_everything.
    """

    max_prompt_tokens = 0  # largest number of tokens of a prompt, or of a text to classify
    max_target_tokens = 0  # largest number of tokens of an answer to learn; 0: there are none
    template = ""  # the prompt around each dialogue; empty: a text is its own prompt
    chat_template = False  # whether prompts are put into the tokenizer's chat template
    shares: Mapping[str, Any] = {}  # splits that are shares of the training rows: how to draw them
    shared_by: Sequence[str] = ()  # options that decide which rows are in them
    share_read = ""  # the one that was read to measure
    fallback: tuple[str, str] | None = None  # a split that may be missing, and the one used instead
    remedies: ClassVar[dict[str, str]] = {}  # ends of messages for missing splits
    truncation_note: ClassVar[str]  # log phrase for rows that were cut
    takes_lists: ClassVar[bool] = True  # whether `source` may be a list
    skips_missing: ClassVar[bool] = False  # whether one of several data sets may lack a split
    predict_split = "test"  # name of the split that `predict` runs on

    def __init__(
        self,
        source: str | list[str],
        tokenizer: str | None = None,
        train_split: str = "train",
        validation_split: str | None = None,
        test_split: str | None = None,
        num_samples: PositiveInt | None = None,
        num_eval_samples: PositiveInt | None = None,
        batch_size: PositiveInt = 16,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.sources, self.tokenizer = names_of(source), tokenizer
        self.splits = {"train": train_split, "validation": validation_split, "test": test_split}
        evaluated = num_eval_samples
        self.limits = {"train": num_samples, "validation": evaluated, "test": evaluated}
        self.loaders = Loaders(batch_size, eval_batch_size, num_workers, seed)
        self.batch_size = batch_size
        self._encoded: dict[str, Dataset] = {}
        self._encoded_for: Any = None  # what rows depend on besides the options
        self._asking: Stage | None = None  # a stage that answers texts

    @property
    def _stage(self) -> Stage | None:
        return self._asking or stage_of(self.trainer)

    @property
    def _needs(self) -> Collection[str]:
        return self._stage.needs if self._stage else ()

    @property
    def _extra(self) -> Mapping[str, str]:
        """Columns that a reward takes besides the texts, and the flags that say so."""
        return self._stage.columns if self._stage else {}

    @cached_property
    def encoding(self) -> Encoding:
        """The tokenizer, opened at first use."""
        return Encoding(self.tokenizer, self._stage)

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows."""
        return bool(self.splits["validation"]) or "validation" in self.shares

    def rows(self, split: str) -> "Dataset":
        """Returns the encoded rows of a split, from the cache if it has them.

        Args:
            split: ``train``, ``validation``, ``test`` or, with ``predict_source``, ``predict``.

        Returns:
            Prompts have columns ``prompt``, ``reference``, ``prompt_ids``, ``target_ids``, ``cut``
            and ``index``; labelled texts have ``input_ids``, ``label`` and ``cut``.

        Raises:
            InputError: If there are no such rows, or they can't be used.
        """
        self._forget_other_stage()
        if split not in self._encoded:
            with caching():
                counted = self._encode(split, self._choose(split))
            notes = self._notes(split, counted.rows).items()
            phrases = "".join(f"; {number} {phrase}" for phrase, number in notes if number)
            rank_zero_info(f"{split}: {counted}{phrases}")
            self._encoded[split] = counted.rows
        return self._encoded[split]

    def _forget_other_stage(self) -> None:
        """Drops tokenizer and rows if they were made for a stage with another model or needs."""
        stage = self._stage
        model = stage and stage.source and (stage.source.base, stage.source.tokenizer_options)
        wanted = stage and (sorted(stage.needs), stage.columns, stage.labels, stage.learns_scores)
        key = stage and (model, type(stage.family), wanted)
        if key != self._encoded_for:
            self._encoded.clear()
            self.__dict__.pop("encoding", None)
            self._encoded_for = key

    def _choose(self, split: str) -> CountedRows:
        """Returns the rows of a split before they are encoded."""
        if self.shares and split in ("train", *self.shares):
            return self._split_off(split).at_most(self.limits[split])
        try:
            return self._read(split).at_most(self.limits.get(split))
        except MissingSplit as error:
            if self.fallback and self.fallback[0] == split:
                _, other = self.fallback
                found = str(error).removeprefix(f"--data.{split}_split={self.splits[split]}: ")
                share = f"the {other} rows (data.{other}_fraction)"
                rank_zero_info(f"{found}: {share} are used to {VERBS[split]}")
                return self._choose(other)
            raise InputError(f"{error}{self.remedies.get(split, '')}") from error

    def _split_off(self, split: str) -> CountedRows:
        """Returns the training rows without the share that is split off, or this share."""
        rows = self._read("train")
        ((name, options),) = self.shares.items()
        share = options["test_size"]
        if math.ceil(len(rows.rows) * share) >= len(rows.rows):
            raise InputError(
                f"--data.{name}_fraction={share}: no row would be left to train on ({rows}); give "
                "more rows or a smaller share"
            )
        both = rows.rows.train_test_split(**options)
        if split == "train":
            return rows.then("after the split", both["train"])
        self.share_read = name
        return rows.then("kept out of training", both["test"])

    def _read(self, split: str) -> CountedRows:
        """Reads a split of all data sets and keeps the rows that can be used."""
        from datasets import concatenate_datasets

        name, flag = self.splits[split], f"--data.{split}_split"
        if name is None:
            raise MissingSplit(f"{flag}=null: there are no such rows; name a split")
        tables, missing = [], []
        for source in self.sources:
            try:
                tables.append(self._select(load_rows(source, name, flag, self.takes_lists), source))
            except MissingSplit as error:
                if not self.skips_missing:
                    raise
                missing.append(error)
        if not tables:
            raise missing[0]
        for message in missing:
            found = str(message).removeprefix(f"{flag}={name}: ")
            rank_zero_info(f"{found}: it gives no rows to this split")
        rows = concatenate_datasets(tables) if len(tables) > 1 else tables[0]
        where = f"{', '.join(self.sources)}: no row of {name!r} is left"
        return self._keep_usable(CountedRows(rows).then("rows", rows), where)

    @abstractmethod
    def _select(self, rows: "Dataset", source: str) -> "Dataset":
        """Checks the columns of one data set and returns those that are used."""

    @abstractmethod
    def _keep_usable(self, rows: CountedRows, where: str) -> CountedRows:
        """Keeps the rows that can be used; a message begins with ``where`` if there are none."""

    @abstractmethod
    def _encode(self, split: str, rows: CountedRows) -> CountedRows:
        """Returns the columns for the collator, and ``cut``: whether a text was too long."""

    @abstractmethod
    def _collator(self) -> Callable[[list[dict[str, Any]]], Any]:
        """Makes the function that turns a list of encoded rows into a batch."""

    def _notes(self, split: str, encoded: "Dataset") -> dict[str, int]:
        """Returns phrases to log, each with the number of encoded rows that it is about."""
        return {self.truncation_note.format(self.max_prompt_tokens): count_cut(encoded)}

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each node."""
        self.setup("")

    def setup(self, stage: str) -> None:
        """Reads the splits that the trainer's current command needs."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn is None:
            return
        if trainer.state.fn == "validate" and not self.has_validation:
            raise InputError(
                "--data.validation_split=null: there is nothing to validate on; name a split"
            )
        for split in SPLITS.get(trainer.state.fn.value, (self.predict_split,)):
            if split != "validation" or (self.has_validation and trainer.limit_val_batches):
                rows = self.rows(split)
                if split == "train":
                    self.loaders.check(len(rows), trainer)

    def train_dataloader(self) -> DataLoader[Any]:
        """Makes a loader of full batches, from the checkpoint's position on."""
        return self.loaders.train(self.rows("train"), self._collator(), self.trainer)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Makes a loader of all validation rows in order; an empty list without validation."""
        return self._evaluation("validation") if self.has_validation else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Makes a loader of all test rows in order."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Makes a loader of all rows of ``predict_source`` in order, else of the test rows."""
        return self._evaluation(self.predict_split)

    def _evaluation(self, split: str) -> DataLoader[Any]:
        return self.loaders.evaluation(self.rows(split), self._collator(), self.trainer)

    def teardown(self, stage: str) -> None:
        """Returns to the first epoch, so that another ``fit`` begins there."""
        self.loaders.reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns the names of the data sets and the position of :meth:`Loaders.state`."""
        return {"source": ", ".join(self.sources), **self.loaders.state(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at the checkpoint's position; warns if the data has another name."""
        here = ", ".join(self.sources)
        saved = state_dict.get("source", here)
        if saved != here:
            rank_zero_warn(
                f"the checkpoint was made on the data {saved}; this run goes on with {here}"
            )
        self.loaders.load(state_dict, self.trainer)

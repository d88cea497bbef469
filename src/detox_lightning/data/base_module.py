"""The data module that the three kinds of data share."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from detox_lightning.data.counted_rows import count
from detox_lightning.data.encoding import Encoding
from detox_lightning.data.loaders import Loaders
from detox_lightning.data.predict_rows import PredictRows
from detox_lightning.data.read_errors import caching
from detox_lightning.data.row_source import RowSource
from detox_lightning.errors import InputError
from detox_lightning.protocols import stage_of

if TYPE_CHECKING:
    from datasets import Dataset


class RowsDataModule(LightningDataModule):
    """Batches of encoded rows, in a reproducible order that a resumed run continues.

    Not for the command line: its subclasses say what the rows are.

    Args:
        row_source: Reads and encodes the rows of each split.
        tokenizer: Hub id or folder of the tokenizer; None: that of the stage's model.
        loaders: Makes the loaders and keeps the position within the epoch.
        predict_rows: Rows that ``predict`` runs on; None: the test rows.
    """

    def __init__(
        self,
        row_source: RowSource,
        tokenizer: str | None,
        loaders: Loaders,
        predict_rows: PredictRows | None = None,
    ) -> None:
        super().__init__()
        self.row_source = row_source
        self.sources = list(row_source.sources)
        self.tokenizer = tokenizer
        self.loaders = loaders
        self.batch_size = loaders.batch_size
        self.predict_rows = predict_rows
        self._encoding: Encoding | None = None
        self._encoded: dict[str, Dataset] = {}

    @property
    def max_prompt_tokens(self) -> int:
        """Largest number of tokens of a prompt, or of a text to classify."""
        return self.row_source.max_prompt_tokens

    @property
    def max_target_tokens(self) -> int:
        """Largest number of tokens of an answer to learn; 0 if there are none."""
        return self.row_source.max_target_tokens

    @property
    def predict_split(self) -> str:
        """Name of the split that ``predict`` runs on."""
        return "test" if self.predict_rows is None else "predict"

    @property
    def encoding(self) -> Encoding:
        """The tokenizer, opened at first use."""
        if self._encoding is None:
            self._encoding = Encoding(self.tokenizer, stage_of(self.trainer))
        return self._encoding

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
        if split not in self._encoded:
            source, stage = self.row_source, stage_of(self.trainer)
            with caching():
                if split == "predict" and self.predict_rows is not None:
                    ranks = 1 if self.trainer is None else self.trainer.world_size
                    chosen = count(self.predict_rows.read(ranks))
                else:
                    chosen = source.choose(split, stage)
                encoded = source.encode(split, chosen, self.encoding, stage)
            notes = source.notes(split, encoded.rows).items()
            notes_text = "".join(f"; {number} {phrase}" for phrase, number in notes if number)
            rank_zero_info(f"{split}: {encoded}{notes_text}")
            source.check(split, encoded.rows, stage)
            self._encoded[split] = encoded.rows
        return self._encoded[split]

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each node."""
        self.setup("")

    def setup(self, stage: str) -> None:
        """Reads all splits that the trainer's present job needs, from the cache."""
        for split in self._splits_needed():
            rows = self.rows(split)
            if split == "train":
                self.loaders.check(len(rows), self.trainer)

    def _splits_needed(self) -> list[str]:
        job = self.trainer.state.fn if self.trainer is not None else None
        if self.trainer is None or job is None:
            return []
        validates = self.row_source.has_validation
        if job == "fit":
            return ["train"] + ["validation"] * bool(validates and self.trainer.limit_val_batches)
        if job == "validate" and not validates:
            raise InputError("--data.validation_split=null: this leaves nothing to validate on")
        return {"validate": ["validation"], "predict": [self.predict_split]}.get(job, ["test"])

    def train_dataloader(self) -> DataLoader[Any]:
        """Makes a loader of full batches, from the checkpoint's position on."""
        collate = self.row_source.collator(self.encoding)
        return self.loaders.train(self.rows("train"), collate, self.trainer)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Makes a loader of all validation rows in order; an empty list without validation."""
        return self._evaluation("validation") if self.row_source.has_validation else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Makes a loader of all test rows in order."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Makes a loader of all rows of ``predict_source`` in order, else of the test rows."""
        return self._evaluation(self.predict_split)

    def _evaluation(self, split: str) -> DataLoader[Any]:
        collate = self.row_source.collator(self.encoding)
        return self.loaders.evaluation(self.rows(split), collate, self.trainer)

    def teardown(self, stage: str) -> None:
        """Lets another ``fit`` begin at the first epoch."""
        self.loaders.reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns the names of the data sets and the position of :meth:`Loaders.state`."""
        names = {"source": ", ".join(self.sources), "sources": self.sources}
        return {**names, **self.loaders.state(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at the checkpoint's position; warns if the data has another name."""
        here = ", ".join(self.sources)
        saved = ", ".join(state_dict.get("sources") or [state_dict.get("source", here)])
        if saved != here:
            rank_zero_warn(
                f"the checkpoint was made on the data {saved}; this run goes on with {here}"
            )
        self.loaders.load(state_dict, self.trainer)

"""What Lightning asks of a data module whose batches are prompts."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from detox_lightning.batches import PromptBatch
from detox_lightning.data.counted import Counted, parts_needed
from detox_lightning.data.encoding import Encoding, count_blank, count_cut
from detox_lightning.data.loaders import Feed
from detox_lightning.data.prompts import PromptCollator
from detox_lightning.data.read_errors import caching

if TYPE_CHECKING:
    from datasets import Dataset

UNCOMPARED = "without a reference, which ROUGE leaves out"


class PromptRows(Protocol):
    """Which rows there are, and what becomes of them."""

    @property
    def sources(self) -> list[str]:
        """What they are read from."""

    @property
    def validates(self) -> bool:
        """Whether there are validation rows."""

    @property
    def predicted(self) -> str:
        """The part whose rows predict answers."""

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have."""

    @property
    def longest_target(self) -> int:
        """Tokens that an answer to learn may have; 0: there are none."""

    @property
    def cutting(self) -> str:
        """What was done to rows that were too long, to stand after their number."""

    @property
    def compares(self) -> bool:
        """Whether rows usually have an answer of people's to compare with."""

    def choose(self, part: str, processes: int, needs: Collection[str]) -> Counted:
        """The rows of a part, or those that they are drawn from, before they are encoded.

        Args:
            part: ``train``, ``validation``, ``test`` or ``predict``.
            processes: How many read at the same time.
            needs: What the stage can't do without, of ``summary`` and ``reference``.

        Raises:
            InputError: If the source hasn't got them.
        """

    def encode(
        self, part: str, chosen: Counted, encoding: Encoding, needs: Collection[str]
    ) -> Counted:
        """The rows of a part as :class:`PromptCollator` takes them.

        Args:
            part: Which part.
            chosen: From :meth:`choose`.
            encoding: The tokenizer.
            needs: As for :meth:`choose`.

        Raises:
            InputError: If they can't be encoded, or no row is left.
        """


class PromptDataModule(LightningDataModule):
    """Prompts in batches, from whatever rows.

    Not for the command line: :class:`DialogueDataModule` and :class:`ContinuationDataModule` say
    what the rows are.
    """

    def __init__(self, prompts: PromptRows, tokenizer: str | None, feed: Feed) -> None:
        """Notes what to read; nothing is opened yet.

        Args:
            prompts: The rows.
            tokenizer: Hub id or folder of the tokenizer. None: the model's own.
            feed: Makes loaders of rows.
        """
        super().__init__()
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.feed = feed
        self.batch_size = feed.batch_size
        self._encoding: Encoding | None = None
        self._rows: dict[str, Dataset] = {}

    @property
    def sources(self) -> list[str]:
        """What the rows are read from."""
        return self.prompts.sources

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that a prompt may have."""
        return self.prompts.longest

    @property
    def max_target_tokens(self) -> int:
        """Tokens that an answer to learn may have; 0: there are none."""
        return self.prompts.longest_target

    @property
    def encoding(self) -> Encoding:
        """The tokenizer, opened when first asked for."""
        if self._encoding is None:
            self._encoding = Encoding(self.tokenizer, self.trainer)
        return self._encoding

    def rows(self, part: str) -> "Dataset":
        """The encoded rows of a part, from the cache if it has them.

        Args:
            part: ``train``, ``validation``, ``test`` or, with ``predict_source``, ``predict``.

        Returns:
            Columns ``prompt``, ``reference``, ``prompt_ids``, ``target_ids``, ``cut``, ``index``.

        Raises:
            InputError: If the source hasn't got them, or no row is left.
        """
        if part not in self._rows:
            processes = self.trainer.world_size if self.trainer is not None else 1
            module = getattr(self.trainer, "lightning_module", None)
            needs: Collection[str] = getattr(module, "needs", ())
            with caching():
                chosen = self.prompts.choose(part, processes, needs)
                encoded = self.prompts.encode(part, chosen, self.encoding, needs)
            compared = self.prompts.compares and part != "predict"
            alone = count_blank(encoded.rows, "reference") if compared else 0
            cut = count_cut(encoded.rows)
            encoded.report(part, {self.prompts.cutting: cut, UNCOMPARED: alone})
            self._rows[part] = encoded.rows
        return self._rows[part]

    @property
    def collate(self) -> PromptCollator:
        """Pads on the side that the trainer's model wants, else on the right."""
        return PromptCollator(self.encoding.pad_id, self.encoding.padding_side)

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each node."""
        self.setup("")

    def setup(self, stage: str) -> None:
        """Opens what the trainer's job needs, from the cache."""
        for part in parts_needed(self.trainer, self.prompts.validates, self.prompts.predicted):
            rows = self.rows(part)
            if part == "train":
                self.feed.check(len(rows), self.trainer)

    def train_dataloader(self) -> DataLoader[PromptBatch]:
        """Full batches in the order of (seed, epoch), from the checkpoint's place on."""
        return self.feed.train(self.rows("train"), self.collate, self.trainer)

    def val_dataloader(self) -> DataLoader[PromptBatch] | list[Any]:
        """All validation rows in order; an empty list without validation."""
        if not self.prompts.validates:
            return []
        return self.feed.evaluation(self.rows("validation"), self.collate, self.trainer)

    def test_dataloader(self) -> DataLoader[PromptBatch]:
        """All test rows in order."""
        return self.feed.evaluation(self.rows("test"), self.collate, self.trainer)

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """All rows of ``predict_source`` in order, else the test rows."""
        return self.feed.evaluation(self.rows(self.prompts.predicted), self.collate, self.trainer)

    def teardown(self, stage: str) -> None:
        """Lets another ``fit`` begin at the beginning."""
        self.feed.forget()

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, see :meth:`Feed.state`, and of which data."""
        return {"source": ", ".join(self.sources), **self.feed.state(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the place of the checkpoint; warns if the data has another name."""
        here = ", ".join(self.sources)
        if (source := state_dict.get("source", here)) != here:
            rank_zero_warn(
                f"the checkpoint was made on the data {source!r}; this run goes on with {here!r}"
            )
        self.feed.load(state_dict, self.trainer)

"""Rows in, batches out: sources, prompt templates, samplers and the data modules."""

from detox_lightning.data.base_module import RowsDataModule
from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.protocols import Data

__all__ = ["ContinuationDataModule", "DialogueDataModule", "LabeledTextDataModule"]

_data: type[Data] = RowsDataModule  # mypy checks that it fulfils the protocol

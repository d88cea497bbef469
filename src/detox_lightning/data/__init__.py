"""Rows in, batches out: sources, prompt templates, samplers and the data modules."""

from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.protocols import Data

__all__ = ["ContinuationDataModule", "DialogueDataModule", "LabeledTextDataModule"]

# mypy checks that they fulfil the protocol
_data: list[type[Data]] = [ContinuationDataModule, DialogueDataModule, LabeledTextDataModule]

"""Rows in, batches out: sources, prompt templates, samplers and the data modules."""

from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.data.labeled import LabeledTextDataModule

__all__ = ["ContinuationDataModule", "DialogueDataModule", "LabeledTextDataModule"]

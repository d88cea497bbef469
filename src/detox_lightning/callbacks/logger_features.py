"""Which loggers can show more than curves."""

from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


@runtime_checkable
class TableLogger(Protocol):
    """A logger that shows tables, such as Lightning's for Weights & Biases."""

    def log_text(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        """Logs a table of ``data`` by rows."""


def table_loggers(trainer: Trainer) -> list[TableLogger]:
    """Returns a trainer's loggers that show tables."""
    return [logger for logger in trainer.loggers if isinstance(logger, TableLogger)]


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Returns a trainer's loggers whose ``experiment`` shows texts, histograms and layouts."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]

"""Writes what ``predict`` says."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from detox_lightning.errors import InputError


class PredictionsCallback(BasePredictionWriter):
    """Writes predictions to a jsonl file, one row a prompt, in the data's order."""

    def __init__(self, file: str | None = None):
        """Sets where to.

        Args:
            file: A new file; null: ``predictions.jsonl`` in the run's folder.
        """
        super().__init__(write_interval="epoch")
        self.file = file

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to overwrite, before anything is predicted.

        Raises:
            InputError: If the file is there already.
        """
        if stage == "predict" and self.file and self.path(trainer).exists():
            raise InputError(f"predictions.file={self.file} exists: name a new file, or remove it")

    def path(self, trainer: Trainer) -> Path:
        """This process's file; of several, each has one of its own."""
        folder = self.file is None and (trainer.log_dir or trainer.default_root_dir)
        path = Path(self.file or f"{folder}/predictions.jsonl")
        if trainer.world_size == 1:
            return path
        return path.with_suffix(f".rank{trainer.global_rank}{path.suffix}")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Any,
        batch_indices: Any,
    ) -> None:
        """Writes this process's rows."""
        path = self.path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [as_row(prediction) for batch in predictions for prediction in batch]
        with path.open("x", encoding="utf8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        trainer.print(f"{len(rows)} predictions in {path}")


def as_row(prediction: Any) -> dict[str, Any]:
    """One prompt's prediction with a name for each part.

    Args:
        prediction: A row already, a text, or the numbers of a classifier.
    """
    if isinstance(prediction, dict):
        return prediction
    if isinstance(prediction, Tensor):
        return {"prediction": prediction.tolist()}
    return {"response": prediction}

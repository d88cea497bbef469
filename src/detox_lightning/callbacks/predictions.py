"""Writes what ``predict`` says."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

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
        if stage == "predict" and self.file and Path(self.file).exists():
            raise InputError(f"predictions.file={self.file} exists: name a new file, or remove it")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Any,
        batch_indices: Any,
    ) -> None:
        """Writes one rank's rows; further ranks get files of their own."""
        folder = trainer.log_dir or trainer.default_root_dir
        path = Path(self.file or Path(folder) / "predictions.jsonl")
        if trainer.world_size > 1:
            path = path.with_suffix(f".rank{trainer.global_rank}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for batch in predictions for row in batch]
        with path.open("x", encoding="utf8") as file:
            for row in rows:
                row = row if isinstance(row, dict) else {"response": row}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        trainer.print(f"{len(rows)} predictions in {path}")

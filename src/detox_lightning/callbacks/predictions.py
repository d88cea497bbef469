"""Writes the outputs of ``predict``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from detox_lightning.errors import InputError, writing
from detox_lightning.evaluation.comparison import gather_lists
from detox_lightning.runs.run_folders import atomic_file, is_trial, next_free_path, run_folder


class PredictionsCallback(BasePredictionWriter):
    """Writes predictions to one jsonl file, one row per prompt, in the order of the data.

    Until all are done, each process writes its own to a file beside it, whose name ends with
    ``.partial``; it remains if the run is interrupted.
    """

    def __init__(self, file: str | None = None, append: bool = False):
        """Sets the file.

        Args:
            file: A new file; null: ``predictions.jsonl`` in the folder of the run whose checkpoint
                predicts, with a number if that exists already.
            append: Append to the file if it exists already.
        """
        super().__init__(write_interval="batch")
        self.file = file
        self.append = append
        self.path = self.partial = Path()
        self.lines: list[tuple[int, str]] = []  # a row's position in the data, and its text

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a given file that exists, or whose former run was interrupted."""
        if stage == "predict" and self.file is not None:
            self._choose(trainer, Path(self.file))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Chooses the file in the run's folder, which is known only now."""
        if self.file is None:
            path = run_folder(trainer, trainer.ckpt_path) / "predictions.jsonl"
            if not self.append:
                path = next_free_path(path)
                trainer.strategy.barrier("predictions have a name")  # all look before one writes
            self._choose(trainer, path)

    def _choose(self, trainer: Trainer, path: Path) -> None:
        self.path = path
        rank = f".rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        self.partial = self.path.with_name(f"{self.path.name}{rank}.partial")
        self.lines = []
        if self.path.exists() and not (self.append and self.path.is_file()):
            raise InputError(
                f"predictions.file={self.path} exists: name a new file, remove it, or add to it "
                "with predictions.append=true"
            )
        if self.partial.exists():
            raise InputError(
                f"predictions.file={self.path}: {self.partial} holds the predictions of a run that "
                "was interrupted; rename it to keep it, or remove it"
            )

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Adds a batch's rows to this process's partial file."""
        if is_trial(trainer):
            return
        lines = [json.dumps(_as_row(row), ensure_ascii=False) + "\n" for row in prediction]
        start = len(self.lines)
        # loaders that don't give indices are assumed to be in order
        places = batch_indices or range(start, start + len(lines))
        self.lines += zip(places, lines, strict=True)
        with writing(self.partial):
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            with self.partial.open("a", encoding="utf8") as file:
                file.writelines(lines)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all processes into one file."""
        if is_trial(trainer):
            trainer.print("trainer.fast_dev_run: no predictions are written")
            return
        lines = gather_lists(self.lines)
        if trainer.is_global_zero:
            with writing(self.path):
                self._write([line for _, line in sorted(lines, key=lambda placed: placed[0])])
            added = "added to" if self.append else "in"
            trainer.print(f"{len(lines)} predictions {added} {self.path}")
        trainer.strategy.barrier("predictions are written")
        self.partial.unlink(missing_ok=True)

    def _write(self, lines: list[str]) -> None:
        """Appends to the file, or creates it, complete or not at all."""
        if self.append:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf8") as file:
                file.writelines(lines if _ends_with_newline(self.path) else ["\n", *lines])
            return
        with atomic_file(self.path) as partial:
            partial.write_text("".join(lines), encoding="utf8")


def _ends_with_newline(path: Path) -> bool:
    """Whether a file is empty or ends with a newline."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read() in (b"", b"\n")


def _as_row(prediction: Any) -> dict[str, Any]:
    """Returns a prediction (a row already, a text, or a classifier's numbers) as a row."""
    if isinstance(prediction, dict):
        return prediction
    if isinstance(prediction, Tensor):
        return {"prediction": prediction.tolist()}
    return {"response": prediction}

"""Writes what ``predict`` says."""

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
from detox_lightning.runs.checkpointing import is_trial
from detox_lightning.runs.run_folders import free, log_folder


class PredictionsCallback(BasePredictionWriter):
    """Writes predictions to one jsonl file, a row a prompt, in the data's order.

    Until all are there, each process keeps its own in a file beside it, whose name ends with
    ``.partial``: it is what a run leaves that is broken off.
    """

    def __init__(self, file: str | None = None, append: bool = False):
        """Sets where to.

        Args:
            file: A new file; null: ``predictions.jsonl`` in the run's folder, with a number if that
                is there already.
            append: Add to the file if it is there already.
        """
        super().__init__(write_interval="batch")
        self.file = file
        self.append = append
        self.path = self.partial = Path()
        self.lines: list[tuple[int, str]] = []  # a row's place in the data, and its text

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the place to write, and refuses to overwrite before anything is predicted.

        Raises:
            InputError: If the file is there already and isn't to be added to, or if one is left
                of predictions that were broken off.
        """
        if stage != "predict":
            return
        if self.file is not None:
            self.path = Path(self.file)
        else:  # asked for once: all processes must ask for the folder together
            self.path = log_folder(trainer) / "predictions.jsonl"
            if not self.append:  # over nothing; all processes look before one of them writes
                self.path = free(self.path)
                trainer.strategy.barrier("predictions have a name")
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
                f"predictions.file={self.path}: {self.partial} holds what was predicted before a "
                "run was broken off; keep it under another name, or remove it"
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
        """Keeps a batch's rows; of a trial none."""
        if is_trial(trainer):
            return
        lines = [json.dumps(as_row(row), ensure_ascii=False) + "\n" for row in prediction]
        start = len(self.lines)
        # loaders that don't tell are taken to be in order
        places = batch_indices or range(start, start + len(lines))
        self.lines += zip(places, lines, strict=True)
        with writing(self.partial):
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            with self.partial.open("a", encoding="utf8") as file:
                file.writelines(lines)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the rows of all processes into one file."""
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
        """Makes the file, whole or not at all, or adds to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.append:
            with self.path.open("a", encoding="utf8") as file:
                file.writelines(lines if ends_a_line(self.path) else ["\n", *lines])
            return
        whole = self.path.with_name(f"{self.path.name}.whole")
        with whole.open("w", encoding="utf8") as file:
            file.writelines(lines)
        whole.rename(self.path)


def ends_a_line(path: Path) -> bool:
    """Whether what is added to a file begins a new line."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read() in (b"", b"\n")


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

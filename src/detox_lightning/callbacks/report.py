"""Writes what ``test`` found, and prints a short table."""

import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.callbacks.folders import free, log_folder, refuse_full, whole
from detox_lightning.evaluation.statistics import CONFIDENCE, RESAMPLES, summarize
from detox_lightning.report.curves import read_curves
from detox_lightning.report.files import short_table, versions, write_files


class ReportCallback(Callback):
    """Writes the comparison of ``test``: figures with intervals, every response, a report."""

    def __init__(self, folder: str | None = None):
        """Notes where to.

        Args:
            folder: Where to, nothing or an empty folder as yet; null: ``test`` in the folder of the
                run whose checkpoint is tested, with a number if there is one already.
        """
        self.folder = folder
        self.written: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a folder that holds something, before anything is tested.

        Raises:
            InputError: If it does.
        """
        if stage == "test" and self.folder is not None:
            refuse_full(Path(self.folder), f"report.folder={self.folder}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, in one process, and prints the table."""
        module: Any = pl_module
        if getattr(module, "comparison", None) is None:
            return
        run = run_folder(trainer, trainer.ckpt_path)
        folder = Path(self.folder) if self.folder is not None else free(run / "test")
        if trainer.is_global_zero:
            summary = {
                "about": describe(trainer, module),
                "figures": summarize(module.comparison, module.seed),
            }
            with whole(folder) as partial:
                write_files(partial, summary, module.comparison, read_curves(run))
            print(f"\n{short_table(summary)}\n\nAll figures, responses and a report: {folder}")
        self.written = folder
        trainer.strategy.barrier("report")


def run_folder(trainer: Trainer, checkpoint: str | Path | None) -> Path:
    """The folder of the run that made a checkpoint, else the present run's.

    Args:
        trainer: All processes must ask, as the loggers' folder is agreed on between them.
        checkpoint: The file; None for the present run.
    """
    if not checkpoint:
        return log_folder(trainer)
    folder = Path(checkpoint).parent
    return folder.parent if folder.name == "checkpoints" else folder


def describe(trainer: Trainer, module: Any) -> dict[str, Any]:
    """What was compared, how and with what.

    Args:
        trainer: After a test.
        module: What was tested.
    """
    dialogues = getattr(getattr(trainer, "datamodule", None), "dialogues", None)
    made = origin()
    return {
        "command": made["command"],
        "created": made["created"],
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "data": dialogues.source if dialogues is not None else None,
        "prompts": len(module.comparison.prompts),
        **module.about,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "versions": made["versions"],
    }


def origin() -> dict[str, Any]:
    """Which command made something, when, and with what versions."""
    return {
        "command": shlex.join(["python", "-m", "detox_lightning", *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }

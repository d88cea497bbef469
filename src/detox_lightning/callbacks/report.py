"""Writes what ``test`` found, and prints a short table."""

import re
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.callbacks.folders import (
    free,
    log_folder,
    refuse_full,
    refuse_unwritable,
    whole,
)
from detox_lightning.evaluation.statistics import CONFIDENCE, RESAMPLES, summarize
from detox_lightning.report.curves import read_curves
from detox_lightning.report.files import short_table, versions, write_files

SECRET_FLAG = re.compile(r"^--(?:.*[._])?(?:token|key|password|secret)$", re.IGNORECASE)
SECRET = re.compile(r"^(--(?:.*[._])?(?:token|key|password|secret)=).*", re.IGNORECASE)


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
        """Refuses a folder that holds something or can't be written, before anything is tested.

        Raises:
            InputError: If it does, or can't.
        """
        if stage != "test":
            return
        run = run_folder(trainer)  # asks all processes
        if self.folder is not None:
            refuse_full(Path(self.folder), f"report.folder={self.folder}")
        if trainer.is_global_zero and hasattr(pl_module, "comparison"):
            folder = run / "test" if self.folder is None else Path(self.folder).absolute()
            refuse_unwritable(folder.parent, f"report.folder={self.folder or folder}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, in one process, and prints the table."""
        module: Any = pl_module
        if getattr(module, "comparison", None) is None:
            return
        run = run_folder(trainer)
        folder = Path(self.folder).absolute() if self.folder is not None else free(run / "test")
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


def run_folder(trainer: Trainer) -> Path:
    """The folder of the run that is tested: its checkpoint's, else the present one.

    Args:
        trainer: All processes must ask, as the loggers' folder is agreed on between them.
    """
    present = log_folder(trainer)
    if not trainer.ckpt_path:
        return present
    folder = Path(trainer.ckpt_path).parent
    return folder.parent if folder.name == "checkpoints" else folder


def describe(trainer: Trainer, module: Any) -> dict[str, Any]:
    """What was compared, how and with what.

    Args:
        trainer: After a test.
        module: What was tested.
    """
    dialogues = getattr(getattr(trainer, "datamodule", None), "dialogues", None)
    return {
        "command": command(sys.argv[1:]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "data": dialogues.source if dialogues is not None else None,
        "prompts": len(module.comparison.prompts),
        **module.about,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "versions": versions(),
    }


def command(words: list[str]) -> str:
    """The command line that was given, without what is secret.

    Args:
        words: Its words after the program's name.
    """
    shown = [SECRET.sub(r"\1***", word) for word in words]
    for place, word in enumerate(shown[:-1]):
        if SECRET_FLAG.search(word):
            shown[place + 1] = "***"
    return shlex.join(["python", "-m", "detox_lightning", *shown])

"""Writes what ``test`` found, and prints a short table."""

from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.evaluation.statistics import CONFIDENCE, RESAMPLES, summarize
from detox_lightning.redaction import without_secrets
from detox_lightning.report.curves import read_curves
from detox_lightning.report.report_files import short_table, write_files
from detox_lightning.runs.checkpointing import is_trial
from detox_lightning.runs.provenance import origin
from detox_lightning.runs.run_folders import (
    filled_meanwhile,
    free,
    refuse_full,
    refuse_unwritable,
    run_folder,
    whole,
)


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
        """Refuses a folder that holds something or can't be written, before anything is opened.

        Raises:
            InputError: If it does, or can't.
        """
        if stage == "test" and self.folder is not None:
            refuse_full(Path(self.folder), f"report.folder={self.folder}")
            self.refuse_unwritable(trainer, pl_module, Path(self.folder).absolute())

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a run's folder that can't be written: which run's is known only now.

        Raises:
            InputError: If it can't.
        """
        if self.folder is None:
            run = run_folder(trainer, trainer.ckpt_path)  # asks all processes
            self.refuse_unwritable(trainer, pl_module, run / "test")

    def refuse_unwritable(self, trainer: Trainer, module: Any, folder: Path) -> None:
        """Makes sure that the folder can be made, in one process, where there will be a report.

        Raises:
            InputError: If it can't.
        """
        if trainer.is_global_zero and hasattr(module, "comparison"):
            refuse_unwritable(folder.parent, f"report.folder={self.folder or folder}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, in one process, and prints the table."""
        module: Any = pl_module
        if getattr(module, "comparison", None) is None:
            return
        run = run_folder(trainer, trainer.ckpt_path)
        folder = self.free_folder(run / "test")
        if trainer.is_global_zero:
            summary = {
                "about": describe(trainer, module),
                "figures": summarize(module.comparison, module.seed),
            }
            if is_trial(trainer):
                told = "trainer.fast_dev_run: no report is written"
            else:
                with whole(folder) as partial:
                    write_files(partial, summary, module.comparison, read_curves(run))
                told = f"All figures, responses and a report: {folder}"
            print(f"\n{short_table(summary)}\n\n{told}")
        self.written = folder
        trainer.strategy.barrier("report")

    def free_folder(self, default: Path) -> Path:
        """Where to write: the folder that was given, else the default; over nothing."""
        if self.folder is None:
            return free(default)
        return filled_meanwhile(Path(self.folder).absolute(), f"report.folder={self.folder}")


def describe(trainer: Trainer, module: Any) -> dict[str, Any]:
    """What was compared, how and with what.

    Args:
        trainer: After a test.
        module: What was tested.
    """
    sources = getattr(getattr(trainer, "datamodule", None), "sources", [])
    made = origin(trainer)
    about = {
        "command": made["command"],
        "created": made["created"],
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "data": ", ".join(sources) or None,
        "prompts": len(module.comparison.prompts),
        **module.about,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "versions": made["versions"],
    }
    return cast("dict[str, Any]", without_secrets(about))

"""Writes the trained model as a folder that other programs open."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.callbacks.folders import free, log_folder, refuse_full, whole


class ExportCallback(Callback):
    """Writes a Hugging Face folder when ``fit`` has come to its end.

    A run that is stopped by an error or by hand writes none, and neither does ``fast_dev_run``; a
    folder that is there is complete.
    """

    def __init__(self, folder: str | None = None):
        """Notes where to.

        Args:
            folder: Where to, nothing or an empty folder as yet; null writes ``model`` or
                ``adapter`` into the run's log folder.
        """
        self.folder = folder
        self.written: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a folder that holds something, before training.

        Raises:
            InputError: If it does.
        """
        if stage == "fit" and self.folder is not None:
            refuse_full(Path(self.folder), f"export.folder={self.folder}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folder, in one process."""
        if getattr(trainer, "fast_dev_run", False):
            return
        root = log_folder(trainer)
        module: Any = pl_module
        folder = Path(self.folder) if self.folder is not None else free(root / module.export_name)
        if trainer.is_global_zero:
            write_whole(module, folder)
        self.written = folder
        rank_zero_info(f"The trained model is in {folder}")
        trainer.strategy.barrier("export")


def write_whole(module: Any, folder: Path) -> None:
    """Lets a module export itself; the folder appears only when everything is in it.

    Args:
        module: What has ``export(folder)``.
        folder: Where to.

    Raises:
        InputError: If there is something in the folder.
    """
    with whole(folder) as partial:
        module.export(partial)

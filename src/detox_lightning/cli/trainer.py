"""Lightning's Trainer, as the command line uses it."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.errors import InputError
from detox_lightning.runs.command_line import CommandLine


class DetoxTrainer(Trainer):
    """Where, how long and in what precision: Lightning's Trainer, which can also export.

    Attributes:
        command: The command line that made it; None if a program of the user's made it.
    """

    command: CommandLine | None = None
    val_check_interval: Any = None  # Lightning has none where validation comes by the clock

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Writes what a checkpoint holds as Hugging Face folders, also while its run goes on.

        Args:
            model: What the checkpoint is of.
            datamodule: Its data, which is named in the model card.
            ckpt_path: The checkpoint, or ``last`` for the newest run's last one.

        Raises:
            InputError: If there is no such checkpoint.
        """
        self.datamodule = datamodule
        if ckpt_path is None or not Path(ckpt_path).is_file():
            raise InputError(
                f"--ckpt_path={ckpt_path}: there is no such file; give the checkpoint to export, "
                "or last"
            )
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ExportCallback):
                callback.write_checkpoint(self, model, Path(ckpt_path))

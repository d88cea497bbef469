"""Lightning's Trainer, as the command line uses it."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.errors import InputError
from detox_lightning.protocols import callbacks_of
from detox_lightning.runs.provenance import CommandLine


class DetoxTrainer(Trainer):
    """Where, how long and in what precision a model is trained: Lightning's Trainer.

    Attributes:
        command: The command that made it; None if a program made it.
        checkpoint: The file of plain values that the command loads; None if there is none.
    """

    command: CommandLine | None = None
    checkpoint: Path | None = None
    val_check_interval: Any = None  # Lightning sets none if validation goes by time

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Writes a checkpoint's model as Hugging Face folders, even while its run goes on.

        Args:
            model: The stage that wrote the checkpoint.
            datamodule: Its data, which the model card names.
            ckpt_path: The checkpoint, or ``last`` for the newest run's last one.
            weights_only: Stands in each run's config.yaml; only tensors and plain values are read.

        Raises:
            InputError: If there is no such checkpoint.
        """
        self.datamodule = datamodule
        if ckpt_path is None or not Path(ckpt_path).is_file():
            raise InputError(
                f"--ckpt_path={ckpt_path}: there is no such file; give the checkpoint to export, "
                "or last"
            )
        for callback in callbacks_of(self):
            if isinstance(callback, ExportCallback):
                callback.write_checkpoint(self, model, Path(ckpt_path))

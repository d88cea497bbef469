"""Lightning's Trainer, as the command line uses it."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.compare.conversation import Conversation
from detox_lightning.compare.page_server import PageServer
from detox_lightning.data.prompts import PromptDataModule
from detox_lightning.errors import InputError
from detox_lightning.modules import PPOModule
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
            raise InputError(f"--ckpt_path={ckpt_path}: there is no such file; give one, or last")
        for callback in callbacks_of(self):
            if isinstance(callback, ExportCallback):
                callback.write_checkpoint(self, model, Path(ckpt_path))

    def compare(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
        host: str = "127.0.0.1",
        port: int = 7860,
        open_browser: bool = True,
    ) -> None:
        """Serves a page that shows what the model writes before and after training.

        Args:
            model: A PPO module.
            datamodule: Its data, with the prompt's template and the rows that can be chosen.
            ckpt_path: The checkpoint, or ``last`` for the newest run's last one.
            weights_only: Stands in each run's config.yaml; only tensors and plain values are read.
            host: Address of the page; with 0.0.0.0 everybody who can reach this machine can use it.
            port: Port of the page; if it is taken, the next free one; 0: any free one.
            open_browser: Whether to open the page in a browser, where there is a desktop.
        """
        if not (isinstance(model, PPOModule) and isinstance(datamodule, PromptDataModule)):
            raise InputError(f"compare: {type(model).__name__} has no reference; give a PPO run")
        if self.world_size > 1:
            one = "--trainer.devices=1 --trainer.num_nodes=1 --trainer.strategy=auto"
            raise InputError(f"compare: one process answers, not {self.world_size}; give {one}")
        # it would refuse a file that predict has written
        self.callbacks = [x for x in callbacks_of(self) if not isinstance(x, PredictionsCallback)]
        with PageServer(host, port) as server:
            # predict prepares model, checkpoint, data and device
            vars(self.predict_loop)["run"] = lambda: Conversation(self).hold(server, open_browser)
            self.predict(model, None, datamodule, ckpt_path=ckpt_path, weights_only=weights_only)

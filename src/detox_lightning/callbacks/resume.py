"""What a run needs to go on as if nothing had happened, besides its modules' state."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.callbacks.curves import cut_curves
from detox_lightning.callbacks.folders import log_folder
from detox_lightning.callbacks.progress import SETTLED, move, next_point, steps_logged
from detox_lightning.errors import InputError

FIGURES, RUN = "validation", "run"  # keys in a checkpoint


class ResumeCallback(Callback):
    """Makes a resumed run's curves, figures and place in the epoch those of an uninterrupted one.

    In the run's folder, what a killed run logged after the checkpoint is cut off. The last
    validation's figures are kept in the checkpoint, as the end of a run shows them.
    """

    def __init__(self) -> None:
        """Nothing was loaded yet."""
        self.run: str | None = None
        self.steps: int | None = None
        self.figures: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes the name of the run's folder."""
        if stage == "fit":
            self.run = log_folder(trainer).name  # asks all processes

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the last validation's figures, and the folder's name."""
        known = trainer.callback_metrics.items()
        checkpoint[FIGURES] = {name: float(x) for name, x in known if name.startswith("val/")}
        checkpoint[RUN] = self.run

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes what is put back later; takes up the place in the epoch for other batches."""
        loops = checkpoint["loops"]["fit_loop"]
        self.steps = steps_logged(loops) if SETTLED in loops else None
        self.figures = checkpoint.get(FIGURES, {})
        feed = getattr(getattr(trainer, "datamodule", None), "feed", None)
        if feed is not None and feed.moved:
            move(loops, feed.batches)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts the curves; puts the figures back.

        Raises:
            InputError: If this process began elsewhere than the first, as without a common disk.
        """
        begun = str(trainer.ckpt_path)
        if (first := trainer.strategy.broadcast(begun)) != begun:
            raise InputError(
                f"--ckpt_path: process {trainer.global_rank} began from {begun}, process 0 from "
                f"{first}: the folder of runs must be on a disk that all nodes share"
            )
        point = next_point(pl_module, self.steps or 0) if trainer.ckpt_path else 0
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                cut_curves(logger, point)
        trainer.callback_metrics.update({k: torch.tensor(x) for k, x in self.figures.items()})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets Lightning's x-axis right, which it moves by one when it loads some checkpoints."""
        if self.steps is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.steps
            self.steps = None

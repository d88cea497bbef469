"""A moving average of the trainable weights, which validation, export and test use."""

from typing import Any

import torch
from jsonargparse.typing import OpenUnitInterval
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from detox_lightning.runs.checkpoint_reading import BEFORE, BROKEN, BrokenCheckpoint
from detox_lightning.stages.checkpoint import check_weights

KEY = "averaged_weights_of"  # in a checkpoint: the weights that are trained


class AveragingCallback(Callback):
    """Keeps an exponential moving average of the trainable parameters, and of no others.

    Validation uses the average, and exports and checkpoints hold it in place of the module's
    weights. Checkpoints also hold the weights that are trained, and a run resumes with both.
    Lightning's ``WeightAveraging`` would also copy the frozen weights.
    """

    def __init__(self, decay: OpenUnitInterval = 0.99):
        """Sets the decay.

        Args:
            decay: Share of the average that remains after each batch (in PPO: rollout).
        """
        self.decay = float(decay)
        self.step = 0  # optimizer steps that the average contains
        self.other: dict[str, Tensor] = {}  # the average; while the model has it, the weights
        self.is_average_in_model = False

    def state_dict(self) -> dict[str, Any]:
        """Returns how many steps the average contains."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.step = state_dict["step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts with the present weights, or with a checkpoint's average."""
        loaded, self.is_average_in_model = self.other, False
        self.other = {
            name: loaded.get(name, value).detach().to(value.device, copy=True)
            for name, value in trainable(pl_module).items()
        }

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Moves the average towards the weights, if a step was taken."""
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            for name, value in trainable(pl_module).items():
                self.other[name].lerp_(value.detach(), 1 - self.decay)

    def _swap(self, module: LightningModule) -> None:
        self.is_average_in_model = not self.is_average_in_model
        for name, value in trainable(module).items():
            before = value.detach().clone()
            value.data.copy_(self.other[name])
            self.other[name].copy_(before)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average into the model."""
        if self.other:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the weights back into the model."""
        if self.other:
            self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average in the model."""
        self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the average as the module's weights, and the weights under :data:`KEY`."""
        if not self.other:
            return
        state = checkpoint["state_dict"]
        in_model = {name: state[name] for name in self.other}
        if self.is_average_in_model:
            checkpoint[KEY] = self.other
        else:
            checkpoint[KEY] = in_model
            state.update(self.other)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores both if the run resumes; other commands need the average alone."""
        if trainer.state.fn != "fit" or KEY not in checkpoint:
            return
        weights, here = checkpoint[KEY], trainable(pl_module)
        if {k: x.shape for k, x in weights.items()} != {k: x.shape for k, x in here.items()}:
            raise BrokenCheckpoint(f"{BROKEN}: its {KEY} don't fit the trained weights; {BEFORE}")
        check_weights(pl_module, weights)
        self.other = {name: checkpoint["state_dict"][name] for name in weights}
        with torch.no_grad():
            for name, value in here.items():
                value.copy_(weights[name])


def trainable(module: LightningModule) -> dict[str, torch.nn.Parameter]:
    """Returns the trainable parameters by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}

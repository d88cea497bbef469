"""A moving average of what learns: what is validated, exported and tested in its place."""

from typing import Any

import torch
from jsonargparse.typing import OpenUnitInterval
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from detox_lightning.stages.checkpoint import BEFORE, BROKEN, BrokenCheckpoint, check_weights

KEY = "averaged_weights_of"  # in a checkpoint: the weights that are trained on


class AveragingCallback(Callback):
    """Averages the parameters that learn (exponential moving average), and no others.

    The average is what validation sees, what is exported, and what a checkpoint holds as the
    module's weights; those that are trained on lie beside it, and a run goes on with both.
    """

    def __init__(self, decay: OpenUnitInterval = 0.99):
        """Nothing is averaged yet.

        Args:
            decay: How much of the average stays after each batch (in PPO: rollout).
        """
        self.decay = float(decay)
        self.step = 0  # optimizer steps that are in the average
        self.other: dict[str, Tensor] = {}  # the average; while it is in the model, what learns
        self.is_in = False

    def state_dict(self) -> dict[str, Any]:
        """The steps that are in the average."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them up."""
        self.step = state_dict["step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the weights as they are, or goes on."""
        begun, self.is_in = self.other, False
        self.other = {
            name: begun.get(name, value).detach().to(value.device, copy=True)
            for name, value in learning(pl_module).items()
        }

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Moves the average towards the weights, if they have moved."""
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            for name, value in learning(pl_module).items():
                self.other[name].lerp_(value.detach(), 1 - self.decay)

    def swap(self, module: LightningModule) -> None:
        """Exchanges the average and the weights.

        Args:
            module: Whose weights they are.
        """
        self.is_in = not self.is_in
        for name, value in learning(module).items():
            before = value.detach().clone()
            value.data.copy_(self.other[name])
            self.other[name].copy_(before)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in."""
        if self.other:
            self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes it out."""
        if self.other:
            self.swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average in the model."""
        self.swap(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes the average as the weights, and the weights beside it."""
        if not self.other:
            return
        state = checkpoint["state_dict"]
        in_model = {name: state[name] for name in self.other}
        average, trained = (in_model, self.other) if self.is_in else (self.other, in_model)
        state.update(average)
        checkpoint[KEY] = trained

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes both up, where the run goes on; elsewhere the average is what is wanted.

        Raises:
            BrokenCheckpoint: If those that are trained on are others than the average, or broken.
        """
        if trainer.state.fn != "fit" or KEY not in checkpoint:
            return
        trained = checkpoint[KEY]
        shapes = [
            {name: x.shape for name, x in each.items()} for each in (trained, learning(pl_module))
        ]
        if shapes[0] != shapes[1]:
            raise BrokenCheckpoint(f"{BROKEN}: its {KEY} are not of what learns here; {BEFORE}")
        check_weights(pl_module, trained)
        self.other = {name: checkpoint["state_dict"][name] for name in trained}
        with torch.no_grad():
            for name, value in learning(pl_module).items():
                value.copy_(trained[name])


def learning(module: LightningModule) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}

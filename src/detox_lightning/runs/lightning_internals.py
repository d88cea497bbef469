"""Overrides the private parts of Lightning that no hook reaches.

A trainer's objects get subclasses of their classes: its checkpoint connector, so that an error
while a checkpoint is loaded names the file, and missing parts are errors; and its loops of ``fit``,
so that a StopIteration from a hook or a logger doesn't end an epoch. This file also reads and edits
the position in the data that the loops save (``loops``: ``checkpoint["loops"]["fit_loop"]``).
``BoundedCheckpoint`` overrides when Lightning's ModelCheckpoint saves.
"""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from detox_lightning.errors import NoStopIteration
from detox_lightning.protocols import stage_of
from detox_lightning.runs.checkpoint_reading import blame_checkpoint, check_training_state

BETWEEN_BATCHES = "between_batches"  # key: the state was saved between two batches
_TRACKERS = ("total", "current")


def check_what_is_loaded(trainer: Trainer) -> None:
    """Makes a trainer check the checkpoints that it loads, and name the file in errors."""
    trainer._checkpoint_connector.__class__ = _CheckedConnector


def guard_loops(trainer: Trainer) -> None:
    """Makes StopIteration between two batches or epochs of ``fit`` an error."""
    trainer.fit_loop.__class__ = _GuardedFitLoop
    trainer.fit_loop.epoch_loop.__class__ = _GuardedEpochLoop


class _CheckedConnector(_CheckpointConnector):
    def _restore_modules_and_callbacks(
        self, checkpoint_path: Any = None, weights_only: bool | None = None
    ) -> None:
        with blame_checkpoint(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        """Restores loops, optimizers and schedulers; checks first that they fit."""
        with blame_checkpoint(self._ckpt_path):
            if self._loaded_checkpoint and self.trainer.state.fn == "fit":
                check_training_state(
                    self._ckpt_path,
                    self._loaded_checkpoint,
                    self.trainer.optimizers,
                    len(self.trainer.lr_scheduler_configs),
                )
            super().restore_training_state()


class _GuardedFitLoop(_FitLoop):
    def on_advance_start(self) -> None:
        """Starts an epoch; a StopIteration becomes an error."""
        with NoStopIteration(f"epoch {self.trainer.current_epoch}"):
            super().on_advance_start()

    def on_advance_end(self) -> None:
        """Ends an epoch; a StopIteration becomes an error."""
        with NoStopIteration(f"epoch {self.trainer.current_epoch}"):
            super().on_advance_end()


class _GuardedEpochLoop(_TrainingEpochLoop):
    def advance(self, data_fetcher: Any) -> None:
        """Runs one batch; a StopIteration after it, from a logger, becomes an error."""
        before = self.batch_progress.current.completed
        try:
            super().advance(data_fetcher)
        except StopIteration:
            if self.batch_progress.current.completed == before:
                raise  # the end of the data, or from a step: EndingCallback tells them apart
            with NoStopIteration(f"epoch {self.trainer.current_epoch}"):
                raise  # from a logger, as the batch is complete

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Ends a batch, validation included; a StopIteration becomes an error."""
        with NoStopIteration(f"epoch {self.trainer.current_epoch}"):
            super().on_advance_end(data_fetcher)


# -- the position in the data


def settle_between_batches(loops: dict[str, Any]) -> None:
    """Rewrites the loops' state so that it is between two batches or two epochs.

    Lightning saves from within a batch or an epoch, and on loading guesses what was left to do. In
    some cases it guesses wrong and skips a validation or an epoch.

    Args:
        loops: Saved after a batch or the whole training, and after a validation that was due;
            changed in place.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for tracker in _TRACKERS:
        batches[tracker] = dict.fromkeys(batches[tracker], batches[tracker]["completed"])
    batches["is_last_batch"] = False
    epoch = epochs["current"]
    if not batches["current"]["completed"] or epoch["ready"] == epoch["processed"]:
        batches["current"] = dict.fromkeys(batches["current"], 0)
        for tracker in _TRACKERS:
            epochs[tracker] = dict.fromkeys(epochs[tracker], epochs[tracker]["processed"])
    loops[BETWEEN_BATCHES] = True


def batches_stepped(loops: dict[str, Any]) -> int:
    """Returns how many batches ended with a step, which is Lightning's x-axis of curves."""
    return int(loops["epoch_loop.state_dict"].get("_batches_that_stepped", 0))


def next_point(trainer: Trainer, stepped: int) -> int:
    """Returns the next point on the curves' x-axis: in rollouts for PPO, else ``stepped``."""
    stage = stage_of(trainer)
    return stepped if stage is None or stage.rollouts is None else stage.rollouts + 1


def set_batches_done(loops: dict[str, Any], batches: int) -> None:
    """Sets the number of batches done in the epoch, after the batch size has changed."""
    current = loops["epoch_loop.batch_progress"]["current"]
    if current["completed"]:
        loops["epoch_loop.batch_progress"]["current"] = dict.fromkeys(current, batches)

"""Tells the end of the data from a StopIteration that some code within a run has raised.

Lightning takes any StopIteration for the end of the data: it would leave out the rest of the epoch,
and the run would seem to be complete.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from detox_lightning.errors import TrainingError
from detox_lightning.runs.lightning_internals import guard_loops


class EndingCallback(Callback):
    """Ends a run with an error if code within it has raised StopIteration."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Guards hooks of callbacks, loggers and the module between batches and epochs."""
        guard_loops(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the epoch has had all its batches."""
        ends_early = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        batches = 0 if ends_early else trainer.num_training_batches
        place = f"epoch {trainer.current_epoch}"
        _check_complete(trainer.fit_loop.epoch_loop, batches, trainer.train_dataloader, place)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the validation has had all its batches."""
        loop = trainer._evaluation_loop
        _check_complete(loop, loop.max_batches[0], trainer.val_dataloaders, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the test has had all its batches."""
        loop = trainer.test_loop
        _check_complete(loop, loop.max_batches[0], trainer.test_dataloaders, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the prediction has had all its batches."""
        loop = trainer.predict_loop
        _check_complete(loop, loop.max_batches[0], trainer.predict_dataloaders, "predict")


def _check_complete(loop: Any, batches: float, loader: Any, place: str) -> None:
    """Raises a TrainingError unless a loop has had as many batches as its loader should give."""
    done = loop.batch_progress.current
    where = f"{place}: StopIteration was raised"
    advice = "perhaps by a next() on an iterator that has ended; correct the code that raises it"
    if done.started > done.completed or done.ready > done.processed:
        raise TrainingError(f"{where} within batch {done.ready}, {advice}")
    # the length of an IterableDataset is only what it says of itself
    has_length = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if has_length and done.completed < batches:
        raise TrainingError(
            f"{where} where the data should give {batches} batches and gave {done.completed}, "
            f"{advice}"
        )

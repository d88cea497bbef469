"""Tells the end of the data from what only looks like it to Lightning."""

from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.data import DataLoader, IterableDataset

from detox_lightning.errors import TrainingError
from detox_lightning.stages.stop_iteration import never_the_end, no_end


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over batches, which no code between two of them ends as if it were done."""

    def advance(self, data_fetcher: Any) -> None:
        """Takes a batch, if there is one, and tells the loggers when it is done."""
        before = self.batch_progress.current.completed
        try:
            super().advance(data_fetcher)
        except StopIteration as error:
            if self.batch_progress.current.completed == before:
                raise  # the end, or see EndingCallback
            raise no_end(f"epoch {self.trainer.current_epoch}", error) from error

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Validates, where that is due."""
        validate = partial(super().on_advance_end, data_fetcher)
        never_the_end(f"epoch {self.trainer.current_epoch}", validate)


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, which no code between two of them ends as if it were done."""

    def on_advance_start(self) -> None:
        """Begins an epoch."""
        never_the_end(f"epoch {self.trainer.current_epoch}", super().on_advance_start)

    def on_advance_end(self) -> None:
        """Ends it."""
        never_the_end(f"epoch {self.trainer.current_epoch}", super().on_advance_end)


class EndingCallback(Callback):
    """Ends a run with an error where code within it has raised StopIteration.

    Lightning takes that for the end of the data: it would leave out the rest of the epoch, and the
    run would seem to be done.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks at what the loops' own hooks raise, of all callbacks, loggers and the module."""
        trainer.fit_loop.__class__ = FitLoop
        trainer.fit_loop.epoch_loop.__class__ = EpochLoop

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at how the epoch came to its end.

        Raises:
            TrainingError: If it didn't.
        """
        ends_early = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        batches = 0 if ends_early else trainer.num_training_batches
        loop, place = trainer.fit_loop.epoch_loop, f"epoch {trainer.current_epoch}"
        refuse_early_end(loop.batch_progress, batches, trainer.train_dataloader, place)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same of an evaluation."""
        in_fit = trainer.fit_loop.epoch_loop.val_loop
        loop: Any = in_fit if trainer.state.fn == "fit" else trainer.validate_loop
        self.look(loop, trainer.val_dataloaders, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self.look(trainer.test_loop, trainer.test_dataloaders, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self.look(trainer.predict_loop, trainer.predict_dataloaders, "predict")

    def look(self, loop: Any, loader: Any, place: str) -> None:
        """Looks at how an evaluation came to its end; see :func:`refuse_early_end`."""
        refuse_early_end(loop.batch_progress, loop.max_batches[0], loader, place)


def refuse_early_end(progress: Any, batches: float, loader: Any, place: str) -> None:
    """Makes sure that batches came to their end, all of them.

    Args:
        progress: Lightning's count of batches.
        batches: How many there should be.
        loader: Gives them; only of one whose rows have numbers that is known.
        place: What ended, for the message.

    Raises:
        TrainingError: If they didn't.
    """
    done = progress.current
    where = f"{place}: StopIteration was raised"
    advice = "perhaps by a next() on something that is used up; mend the code that raises it"
    if done.started > done.completed or done.ready > done.processed:
        raise TrainingError(f"{where} within batch {done.ready}, {advice}")
    has_numbers = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if has_numbers and done.completed < batches:
        raise TrainingError(
            f"{where} where the data should give {batches} batches and gave {done.completed}, "
            f"{advice}"
        )

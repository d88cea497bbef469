"""Tells the end of the data from what only looks like it to Lightning."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.errors import TrainingError


class EndingCallback(Callback):
    """Ends a run with an error where code within it has raised StopIteration.

    Lightning takes that for the end of the data: it would leave out the rest of the epoch, and the
    run would seem to be done.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at how the epoch came to its end.

        Raises:
            TrainingError: If it didn't.
        """
        loop = trainer.fit_loop.epoch_loop
        bound = trainer.max_steps
        ends_early = trainer.should_stop or 0 <= bound <= trainer.global_step
        expected = None if ends_early else trainer.num_training_batches
        refuse_early_end(loop.batch_progress, expected, f"epoch {trainer.current_epoch}")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same of an evaluation."""
        in_fit = trainer.fit_loop.epoch_loop.val_loop
        loop: Any = in_fit if trainer.state.fn == "fit" else trainer.validate_loop
        refuse_early_end(loop.batch_progress, only(loop.max_batches), "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        loop = trainer.test_loop
        refuse_early_end(loop.batch_progress, only(loop.max_batches), "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        loop = trainer.predict_loop
        refuse_early_end(loop.batch_progress, only(loop.max_batches), "predict")


def only(batches: list[int | float]) -> int | float | None:
    """The number of batches of a single loader; None: there are several, which count anew."""
    return batches[0] if len(batches) == 1 else None


def refuse_early_end(progress: Any, expected: int | float | None, place: str) -> None:
    """Makes sure that batches came to their end, all of them.

    Args:
        progress: Lightning's count of batches.
        expected: How many there are; None or infinite: who knows.
        place: What ended, for the message.

    Raises:
        TrainingError: If they didn't.
    """
    done = progress.current
    where = f"{place}: StopIteration was raised"
    advice = "perhaps by a next() on something that is used up; mend the code that raises it"
    if done.started > done.completed or done.ready > done.processed:
        raise TrainingError(f"{where} within batch {done.ready}, {advice}")
    if expected not in (None, float("inf")) and done.completed < expected:
        raise TrainingError(
            f"{where} where the data should give {expected} batches and gave {done.completed}, "
            f"{advice}"
        )

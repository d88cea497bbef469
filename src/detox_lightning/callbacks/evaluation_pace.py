"""Says how far a test, a prediction or a validation by itself is, and how long it will take."""

import time
from math import inf
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.callbacks.narration import SECONDS_BETWEEN_LINES
from detox_lightning.callbacks.pace import duration


class EvaluationPaceCallback(Callback):
    """Prints a line a minute while a model is evaluated without a progress bar.

    The line has the batches that are done and the time left. The first one comes after the first
    batch, if the rest will take more than a minute.
    """

    def __init__(self) -> None:
        self.done = 0
        self.begun = self.told = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._begin()

    on_predict_start = on_validation_start = on_test_start

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Says how far the test is."""
        self._tell(trainer, trainer.num_test_batches)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Says how far the prediction is."""
        self._tell(trainer, trainer.num_predict_batches)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Says how far a validation is that is no part of training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._tell(trainer, trainer.num_val_batches)

    def _begin(self) -> None:
        self.done, self.begun = 0, time.monotonic()
        self.told = self.begun

    def _tell(self, trainer: Trainer, numbers: list[int | float]) -> None:
        """Counts a batch of ``numbers``, those of each loader; prints a line if it is time to."""
        self.done += 1
        now, total = time.monotonic(), sum(numbers)
        left = (now - self.begun) / self.done * (total - self.done)
        is_due = now - self.told > SECONDS_BETWEEN_LINES
        is_long = self.done == 1 and SECONDS_BETWEEN_LINES < left < inf
        if trainer.progress_bar_callback is not None or not left or not (is_due or is_long):
            return
        self.told = now
        verb = trainer.state.fn.value if trainer.state.fn else ""
        of = f" of {total:,} · about {duration(left)} left" if left < inf else ""
        rank_zero_info(f"{verb}: batch {self.done:,}{of}")

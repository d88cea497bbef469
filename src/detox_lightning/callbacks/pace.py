"""How fast a run is, how long it has taken, and how long it will take."""

import time
from math import ceil, isfinite
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from detox_lightning.protocols import Stage, callbacks_of, steps_done


class Pace:
    """The seconds of a run's training and of its validations, each by itself.

    Attributes:
        seconds_before: Seconds of the run's earlier parts, up to the checkpoint it resumed from.
        first: Rollouts or steps done when this part began.
    """

    def __init__(self) -> None:
        self.seconds_before = 0.0
        self.first = 0
        self._begun: float | None = None
        self._validation_begun = 0.0
        self._newest_validation = 0.0  # in seconds
        self._all_validations = 0.0

    def begin(self, done: int) -> None:
        """Starts the clock."""
        self.first, self._begun = done, time.monotonic()
        self._newest_validation = self._all_validations = 0.0

    def begin_validation(self) -> None:
        """Stops the clock of training."""
        self._validation_begun = time.monotonic()

    def end_validation(self) -> None:
        """Starts the clock of training again."""
        self._newest_validation = time.monotonic() - self._validation_begun
        self._all_validations += self._newest_validation

    @property
    def seconds(self) -> float:
        """Seconds of the whole run until now, those before it was resumed included."""
        here = 0.0 if self._begun is None else time.monotonic() - self._begun
        return self.seconds_before + here

    def seconds_each(self, done: int) -> float | None:
        """Returns the seconds of a rollout or step, validations apart; None before the first."""
        if self._begun is None or done <= self.first:
            return None
        return (time.monotonic() - self._begun - self._all_validations) / (done - self.first)

    def seconds_left(self, trainer: Trainer, stage: Stage) -> float | None:
        """Returns how long the run will take, its validations included; None if nobody knows."""
        done, total = steps_done(trainer, stage), total_steps(trainer, stage)
        each = self.seconds_each(done)
        if each is None or total is None or done >= total:
            return None
        left = total - done
        return each * left + self._newest_validation * _validations_in(trainer, stage, left)


def _validations_in(trainer: Any, stage: Stage, steps: int) -> int:
    """Returns how many validations the last rollouts or steps of a run come with."""
    batches = steps * (trainer.accumulate_grad_batches if stage.rollouts is None else 1)
    every = (trainer.val_check_batch or float("inf")) * (trainer.check_val_every_n_epoch or 1)
    return ceil(batches / every) if isfinite(every) else 0


def total_steps(trainer: Trainer, stage: Stage) -> int | None:
    """Returns the number of rollouts or steps of the whole run; None if something else ends it."""
    if any(isinstance(callback, Timer) for callback in callbacks_of(trainer)):
        return None
    if stage.rollouts is None:
        total = trainer.estimated_stepping_batches
    elif trainer.max_steps >= 0:  # it counts optimizer steps
        return None
    else:  # an epoch's length may have changed since the run began
        length, epoch = trainer.num_training_batches, trainer.current_epoch
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        left = ((trainer.max_epochs or 0) - epoch) * length - batches.processed
        total = stage.rollouts + left
    return int(total) if isfinite(total) and total > 0 else None


def duration(seconds: float) -> str:
    """Returns a time as people say it: ``50 s``, ``1 min 10 s``, ``12 min``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes >= 10:
        return f"{minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def speed(seconds: float, unit: str) -> str:
    """Returns how fast it goes: ``2.5 rollouts a second``, ``5.1 s a rollout``."""
    if seconds < 1:
        return f"{1 / max(seconds, 1e-9):.1f} {unit}s a second"
    return f"{seconds:.1f} s a {unit}" if seconds < 60 else f"{duration(seconds)} a {unit}"

"""When checkpoints are written and which are kept: the best within a bound, and the last."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from detox_lightning.errors import InputError, Stopped
from detox_lightning.runs.atomic_save import (
    LAST,
    WholeCheckpointIO,
    clean,
    last_of,
    set_torn_aside,
)
from detox_lightning.runs.checkpoint_reading import name_checkpoints
from detox_lightning.runs.command_line import command_of
from detox_lightning.runs.foreign_paths import drop_foreign_paths
from detox_lightning.runs.loop_state import settle
from detox_lightning.runs.signals import Requests, how_to_go_on, requeue


class BoundedCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint: exact, whole, and with a bound on how far the best have gone.

    Checkpoints are written between two batches, when all of the former one is logged, validation
    included: a run that goes on from there is the uninterrupted one. They appear under their names
    when they are whole. SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C end the run there, with everything
    saved.

    With ``monitor: val/toxicity`` and ``max_kl: 6`` the best checkpoint is the least toxic one that
    is still near the reference; ``last.ckpt`` is written all the same.
    """

    def __init__(
        self,
        max_kl: PositiveFloat | None = None,
        every_n_batches: PositiveInt | None = None,
        save_last: bool | Literal["link"] | None = True,
        **options: Any,
    ):
        """Sets the bound.

        Args:
            max_kl: A checkpoint whose ``val/kl``, in nats a response, is above this is not among
                the best, whatever is monitored; null for no bound.
            every_n_batches: ``last.ckpt`` is also written after every so many batches (in PPO:
                rollouts), the most that a killed run loses; null: with the others.
            save_last: True, and nothing else: a run that is stopped is saved in ``last.ckpt``.
            options: For Lightning's ModelCheckpoint.

        Raises:
            InputError: If there is a bound and nothing says what the best is, or if ``last.ckpt``
                isn't to be a file of its own.
        """
        super().__init__(save_last=save_last, **options)
        if save_last is not True:
            shown = "null" if save_last is None else str(save_last).lower()
            raise InputError(
                f"checkpoint.save_last={shown}: a run that is stopped is saved in "
                "last.ckpt, a file of its own; leave it true"
            )
        if max_kl is not None and self.monitor is None:
            raise InputError(
                f"checkpoint.max_kl={max_kl}: this bounds the best checkpoint; say what is best "
                "with checkpoint.monitor, such as val/toxicity"
            )
        self.max_kl = max_kl
        self.every_n_batches = every_n_batches
        self.requests = Requests()
        self.noted: dict[str, Tensor] | None = None  # what is to be written, as of when it was due
        self.also_best = False
        self.is_writing = False
        self.goes_on = False  # with a run whose checkpoints are in this folder
        self.in_a_step = False  # gradients of several batches are being added up

    # -- preparation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the folder, which tells that a run has begun; removes what is half written."""
        super().setup(trainer, pl_module, stage)
        name_checkpoints(trainer)
        if stage != "fit" or is_trial(trainer):
            return
        if trainer.is_global_zero and "://" not in str(self.dirpath):
            Path(str(self.dirpath)).mkdir(parents=True, exist_ok=True)
            clean(Path(str(self.dirpath)))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO(partial(folders_of, trainer))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Going on in the same folder, writes over what the killed run wrote after this.

        What any callback's state says of places outside its folder is dropped.
        """
        drop_foreign_paths(trainer, checkpoint)
        loaded, here = Path(str(trainer.ckpt_path)), Path(str(self.dirpath))
        self.goes_on = trainer.state.fn == "fit" and loaded.parent.resolve() == here.resolve()
        if self.goes_on and trainer.is_global_zero and not loaded.name.startswith(LAST):
            set_torn_aside(last_of(loaded))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to signals."""
        super().on_train_start(trainer, pl_module)
        if self.goes_on and not self.last_model_path:  # the run's folder has been moved
            self.last_model_path = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        self.requests.listen()

    # -- when something is due

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Notes what is due after so many steps or batches."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.in_a_step = trainer.fit_loop._should_accumulate()
        done = trainer.fit_loop.total_batch_idx + 1
        if self.every_n_batches and done % self.every_n_batches == 0:
            self.note(self._monitor_candidates(trainer))

    def note(self, candidates: dict[str, Tensor], also_best: bool = False) -> None:
        """Remembers to write ``last.ckpt`` between this batch and the next.

        Args:
            candidates: Figures by name.
            also_best: Whether it may be among the best, too.
        """
        self.noted = candidates
        self.also_best |= also_best

    def note_new(self, trainer: Trainer) -> None:
        """Remembers to write ``last.ckpt``, if any step was taken since it was."""
        if self.noted is None and self._last_global_step_saved != trainer.global_step:
            self.note(self._monitor_candidates(trainer))

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self.is_writing:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        else:
            self.note(monitor_candidates, also_best=True)

    def _save_last_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        # Lightning writes last.ckpt only where it has just kept a best one: a run would go on from
        # its best place, not from its last; here it is written whenever something was due
        if self.is_writing:
            super()._save_last_checkpoint(trainer, monitor_candidates)

    # -- between two batches

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Writes what is due after the former batch; ends the run if that was asked for.

        Raises:
            Stopped: If a signal was received by any process.
        """
        if self.in_a_step:
            return
        self.write(trainer)
        if signum := self.requests.agreed(trainer):
            self.stop(trainer, signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what is due after the last batch, and ``last.ckpt`` in any case."""
        if not is_trial(trainer):
            self.note_new(trainer)
            self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Writes what was noted.

        Args:
            trainer: Between two batches.
        """
        if self.noted is None:
            return
        names = {name: self.noted[name] for name in ("epoch", "step")}
        candidates = {**self._monitor_candidates(trainer), **names}
        for logger in trainer.loggers:
            logger.save()
        # where no step was taken, last and previous stay two places of the run
        is_new = self._last_global_step_saved != trainer.global_step
        self.is_writing = True
        try:
            if self.also_best:
                counts = self._enable_version_counter
                self._enable_version_counter = counts and not self.goes_on
                self._save_topk_checkpoint(trainer, candidates)
                self._enable_version_counter = counts
            if is_new:
                self._save_last_checkpoint(trainer, candidates)
        finally:
            self.is_writing = False
        self.noted, self.also_best = None, False
        self._last_global_step_saved = trainer.global_step

    def stop(self, trainer: Trainer, signum: int) -> None:
        """Saves and ends the run.

        Args:
            trainer: Between two batches.
            signum: The signal that asked for it.

        Raises:
            Stopped: Always, in all processes.
        """
        self.note_new(trainer)
        self.write(trainer)
        requeue(trainer, signum)
        # who ends sooner looks as if it had failed
        trainer.strategy.barrier("stopped")
        made_by = command_of(trainer)
        words = made_by.words if made_by else None
        raise Stopped(how_to_go_on(self.last_model_path or None, words), signum)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes that nothing of the former batch is left to do."""
        if self.is_writing:
            settle(checkpoint["loops"]["fit_loop"])

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is among the best.

        Args:
            trainer: Knows the last validation's KL divergence.
            current: What is monitored.
        """
        if self.max_kl is not None:
            kl = trainer.callback_metrics.get("val/kl")
            if kl is None or not kl <= self.max_kl:  # NaN is far
                return False
        return super().check_monitor_top_k(trainer, current)


def folders_of(trainer: Trainer) -> list[str]:
    """The folders in which a trainer's callbacks keep checkpoints."""
    callbacks = trainer.checkpoint_callbacks
    return [folder for x in callbacks if (folder := getattr(x, "dirpath", None)) is not None]


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))

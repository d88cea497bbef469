"""When checkpoints are written, under which names, and which are kept.

``last.ckpt`` is the newest state of the run, and ``previous.ckpt`` the one before it
(:mod:`detox_lightning.runs.atomic_save` keeps it). Lightning names the best ones, by
``checkpoint.monitor``, after the template ``checkpoint.filename``; null: ``epoch=2-step=30.ckpt``.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from detox_lightning.errors import InputError, Stopped
from detox_lightning.protocols import as_stage, data_of, stage_of, steps_done
from detox_lightning.runs.atomic_save import (
    LAST,
    AtomicCheckpointIO,
    last_of,
    remove_partial_checkpoints,
    set_damaged_aside,
)
from detox_lightning.runs.foreign_paths import drop_foreign_paths
from detox_lightning.runs.lightning_internals import check_what_is_loaded, settle_between_batches
from detox_lightning.runs.run_folders import is_trial
from detox_lightning.runs.signals import StopRequests, how_to_resume, requeue


class BoundedCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that saves only between batches, atomically, and can bound the KL divergence.

    Checkpoints are written between two batches, when everything of the former one is logged, its
    validation included: a run that resumes there equals an uninterrupted one. They get their names
    when they are complete. SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C end the run there, with everything
    saved.

    With ``monitor: val/toxicity`` and ``max_kl: 6``, the best checkpoint is the least toxic one
    that is still near the reference; ``last.ckpt`` is still written. If ``monitor`` is null and
    validation asks a judge that is no part of the reward, its figure is monitored.
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
            max_kl: A checkpoint with a higher ``val/kl``, in nats per response, is never among the
                best, whatever is monitored; null for no bound.
            every_n_batches: Also write ``last.ckpt`` each time after this many batches (in PPO:
                rollouts), the most that a killed run loses; null: only with the others.
            save_last: Must be true: a run that is stopped is saved in ``last.ckpt``.
            options: Options of Lightning's ModelCheckpoint.

        Raises:
            InputError: If ``max_kl`` is given without ``monitor``, or ``save_last`` is not true.
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
                f"checkpoint.max_kl={max_kl}: this bounds the best checkpoint; say which is best "
                "with checkpoint.monitor, such as val/toxicity"
            )
        self.max_kl = max_kl
        self.every_n_batches = every_n_batches
        self.requests = StopRequests()
        self.due: dict[str, Tensor] | None = None  # metrics of the checkpoint to write, if any
        self.may_be_best = False  # whether it may also be among the best
        self.is_writing = False
        self.resumes_in_place = False  # the run resumes from a checkpoint in this folder
        self.in_a_step = False  # gradients of several batches are being accumulated
        self.best_at: int | None = None  # rollouts or steps done at the best checkpoint

    # -- preparation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Creates the folder, which shows that a run has started, and removes partial files."""
        if stage == "fit" and self.monitor is None:
            self._follow_held_out(trainer, pl_module)
        super().setup(trainer, pl_module, stage)
        check_what_is_loaded(trainer)
        if stage != "fit" or is_trial(trainer):
            return
        if trainer.is_global_zero and "://" not in str(self.dirpath):
            Path(str(self.dirpath)).mkdir(parents=True, exist_ok=True)
            remove_partial_checkpoints(Path(str(self.dirpath)))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO(partial(_folders_of, trainer))

    def _follow_held_out(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Monitors the judge that the policy isn't trained to please, if validation asks one."""
        stage, data = as_stage(pl_module), data_of(trainer)
        found = None if stage is None else stage.validation
        validates = trainer.enable_validation and (data is None or bool(data.val_dataloader()))
        if found is not None and found.held_out is not None and validates:
            self.monitor, self.mode = f"val/{found.held_out}", "min"
            rank_zero_info(
                f"The best checkpoint is that with the lowest {self.monitor}, since the reward "
                "doesn't know this judge; checkpoint.monitor names another figure"
            )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drops callbacks' states that name foreign paths; prepares to replace later checkpoints.

        A run that resumes in its own folder replaces what it wrote after this checkpoint.
        """
        drop_foreign_paths(trainer, checkpoint)
        loaded, here = Path(str(trainer.ckpt_path)), Path(str(self.dirpath))
        is_here = loaded.parent.resolve() == here.resolve()
        self.resumes_in_place = trainer.state.fn == "fit" and is_here
        if self.resumes_in_place and trainer.is_global_zero and not loaded.name.startswith(LAST):
            set_damaged_aside(last_of(loaded))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for signals."""
        super().on_train_start(trainer, pl_module)
        if self.resumes_in_place and not self.last_model_path:  # the run's folder has been moved
            self.last_model_path = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        self.requests.listen()

    # -- what becomes due within a batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Notes a checkpoint that is due after this number of steps or batches."""
        super().on_train_batch_end(trainer, pl_module, *rest)
        self.in_a_step = trainer.fit_loop._should_accumulate()
        done = trainer.fit_loop.total_batch_idx + 1
        if self.every_n_batches and done % self.every_n_batches == 0:
            self.due = self._monitor_candidates(trainer)

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self.is_writing:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        else:
            self.due, self.may_be_best = monitor_candidates, True

    def _save_last_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        # Lightning writes last.ckpt only when it has just saved a best one, and a run would resume
        # from its best state. Here it is written whenever something was due.
        if self.is_writing:
            super()._save_last_checkpoint(trainer, monitor_candidates)

    # -- what is written between two batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Writes what was due after the last batch; ends the run if a process got a signal."""
        if self.in_a_step:
            return
        self._write_due(trainer)
        if signum := self.requests.agreed(trainer):
            self.stop(trainer, signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what is due after the last batch, and ``last.ckpt`` in any case."""
        if not is_trial(trainer):
            self._write_last(trainer)

    def stop(self, trainer: Trainer, signum: int) -> None:
        """Saves and ends the run, in all processes, by raising :class:`Stopped`."""
        self._write_last(trainer)
        requeue(trainer, signum)
        # a process that ends earlier would seem to have failed
        trainer.strategy.barrier("stopped")
        raise Stopped(how_to_resume(trainer, self.last_model_path or None), signum)

    def _write_last(self, trainer: Trainer) -> None:
        """Writes what is due, or ``last.ckpt`` if any step was taken since it was written."""
        if self.due is None and self._last_global_step_saved != trainer.global_step:
            self.due = self._monitor_candidates(trainer)
        self._write_due(trainer)

    def _write_due(self, trainer: Trainer) -> None:
        if self.due is None:
            return
        place = {name: self.due[name] for name in ("epoch", "step")}
        candidates = {**self._monitor_candidates(trainer), **place}
        for logger in trainer.loggers:
            logger.save()
        # if no step was taken, last and previous remain two different states of the run
        is_new = self._last_global_step_saved != trainer.global_step
        self.is_writing = True
        try:
            if self.may_be_best:
                counts = self._enable_version_counter
                self._enable_version_counter = counts and not self.resumes_in_place
                self._save_topk_checkpoint(trainer, candidates)
                self._enable_version_counter = counts
            if is_new:
                self._save_last_checkpoint(trainer, candidates)
        finally:
            self.is_writing = False
        self.due, self.may_be_best = None, False
        self._last_global_step_saved = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes in the loops' state that the last batch is complete."""
        if self.is_writing:
            settle_between_batches(checkpoint["loops"]["fit_loop"])

    # -- which one is the best

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is among the best, and its KL divergence within ``max_kl``."""
        return self._is_near(trainer) and super().check_monitor_top_k(trainer, current)

    def _is_near(self, trainer: Trainer) -> bool:
        kl = trainer.callback_metrics.get("val/kl")
        # NaN is not within the bound
        return self.max_kl is None or (kl is not None and bool(kl <= self.max_kl))

    def is_best(self, trainer: Trainer) -> bool:
        """Whether the present figures are better than those of every checkpoint that was written.

        They become the best checkpoint's before the next batch. Asks this process alone.
        """
        current = trainer.callback_metrics.get(self.monitor or "")
        every = self._every_n_epochs
        writes = self.save_top_k != 0 and not self._should_skip_saving_checkpoint(trainer)
        writes = writes and every >= 1 and (trainer.current_epoch + 1) % every == 0
        if current is None or not writes or not self._is_near(trainer):
            return False
        sign = 1 if self.mode == "min" else -1
        best = math.inf if self.best_model_score is None else sign * float(self.best_model_score)
        return sign * float(current) < best

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        stage = stage_of(trainer)
        if filepath == self.best_model_path and stage is not None:
            self.best_at = steps_done(trainer, stage)
        super()._save_checkpoint(trainer, filepath)

    def state_dict(self) -> dict[str, Any]:
        """Returns Lightning's state, and when the best checkpoint was written."""
        return {**super().state_dict(), "best_at": self.best_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned; a checkpoint from before may not say when."""
        super().load_state_dict(state_dict)
        kept = state_dict.get("best_at")
        self.best_at = kept if isinstance(kept, int) else None


def _folders_of(trainer: Trainer) -> list[str]:
    """Returns the folders in which a trainer's callbacks keep checkpoints."""
    callbacks = trainer.checkpoint_callbacks
    return [folder for x in callbacks if (folder := getattr(x, "dirpath", None)) is not None]

"""Makes a resumed run equal to one that was never interrupted, beyond the state of its modules."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.protocols import callbacks_of, data_of
from detox_lightning.runs.lightning_internals import (
    BETWEEN_BATCHES,
    batches_stepped,
    next_point,
    set_batches_done,
)
from detox_lightning.runs.run_folders import CHECKPOINTS, FolderLogger, is_trial, log_folder
from detox_lightning.runs.run_lock import FolderLocks
from detox_lightning.runs.truncate_logs import (
    claim_version,
    keep_rows,
    truncate_curves,
)

FIGURES, RUN, ENDED = "validation", "run", "ended_early"  # keys in a checkpoint


class ResumeCallback(Callback):
    """Restores curves, figures and the position in the epoch when a run resumes.

    In the run's folder, it cuts off what a killed run logged after the checkpoint. The checkpoint
    holds the last validation's figures, which the end of a run shows, and whether early stopping
    has ended the run. An active run locks its folders.
    """

    def __init__(self) -> None:
        self.run: str | None = None  # the name of the run's folder
        self.steps: int | None = None  # Lightning's x-axis at the checkpoint
        self.has_begun = False  # whether the first batch has
        self.figures: dict[str, float] = {}  # of the last validation
        self.locks = FolderLocks()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Locks the run's folders; raises an InputError if another run is active in them."""
        if stage != "fit":
            return
        self.run = log_folder(trainer).name  # asks all processes
        trainer.strategy.barrier()  # until now, each process looked for a run without a lock
        self.lock_folders(trainer, trainer.ckpt_path)

    def lock_folders(self, trainer: Trainer, checkpoint: str | Path | None) -> None:
        """Locks the folders of the run that starts or resumes; all processes must call it.

        Args:
            trainer: The trainer, which knows the folders.
            checkpoint: The checkpoint that the run resumes from; None if it starts.

        Raises:
            InputError: If another process continues the same run, or writes into the same folder.
        """
        callback: Any = trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None) or log_folder(trainer) / CHECKPOINTS
        if callback is None or is_trial(trainer) or "://" in str(folder):
            return
        logs = [x.log_dir for x in trainer.loggers if isinstance(x, FolderLogger)]
        folders = [Path(place) for place in (*logs, folder) if "://" not in str(place)]
        locked = self.locks.acquire(folders) if trainer.is_global_zero else None
        locked = trainer.strategy.broadcast(locked)
        if locked and checkpoint and Path(checkpoint).parent.resolve() == Path(folder).resolve():
            raise InputError(
                f"--ckpt_path {checkpoint}: this run is still active in another process; wait "
                "for its end, or start a new run without --ckpt_path"
            )
        if locked:
            raise InputError(
                f"{locked}: a run is still active there in another process; wait for its end, or "
                "give this one another place (checkpoint.dirpath, trainer.logger.version, "
                "trainer.logger.save_dir)"
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Unlocks the folders."""
        self.locks.release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlocks the folders."""
        self.locks.release()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the last validation's figures, the run's name, and whether it was stopped early."""
        checkpoint[FIGURES] = _of_validation(trainer.callback_metrics)
        checkpoint[RUN] = self.run
        checkpoint[ENDED] = trainer.should_stop and not _is_out_of_time(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores the figures, the position in the epoch, and an end by early stopping."""
        loops = checkpoint["loops"]["fit_loop"]
        self.steps = batches_stepped(loops) if BETWEEN_BATCHES in loops else None
        self.figures = _of_validation(checkpoint.get(FIGURES, {}))
        callbacks = callbacks_of(trainer)
        if trainer.state.fn == "fit":
            averaging = "AveragingCallback"
            here = {callback.state_key for callback in callbacks}
            if averaging in checkpoint["callbacks"] and averaging not in here:
                rank_zero_warn(
                    "the checkpoint's run averaged its weights, and this one resumes from the "
                    f"average: give {averaging} in trainer.callbacks again to resume both"
                )
            if checkpoint.get(ENDED) and any(isinstance(x, EarlyStopping) for x in callbacks):
                trainer.should_stop = True
                rank_zero_info(
                    "early stopping has ended this run: nothing is left to do. To train longer, "
                    "leave EarlyStopping out of trainer.callbacks"
                )
        data = data_of(trainer)
        if data is not None and data.loaders.batch_size_changed:
            set_batches_done(loops, data.loaders.batches)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts the curves after the checkpoint; restores the figures."""
        ours = str(trainer.ckpt_path)
        if (first := trainer.strategy.broadcast(ours)) != ours:
            raise InputError(
                f"--ckpt_path: process {trainer.global_rank} starts from {ours}, process 0 from "
                f"{first}: the folder of runs must be on a disk that all nodes share"
            )
        point = next_point(trainer, self.steps or 0) if trainer.ckpt_path else 0
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                truncate_curves(logger, point)
        trainer.callback_metrics.update({k: torch.tensor(x) for k, x in self.figures.items()})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Corrects Lightning's x-axis, which moves by one when some checkpoints are loaded."""
        self.has_begun = True
        if self.steps is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.steps
            self.steps = None


@contextmanager
def fit_folders(trainer: Any, checkpoint: str | None) -> Iterator[None]:
    """Claims a run's folders for a block; removes new ones if it fails before the first batch.

    Raises:
        InputError: If a folder can't be created, or another run is active in it.
    """
    new = [x for x in trainer.loggers if isinstance(x, FolderLogger) and x._version is None]
    claim_version(trainer.loggers)
    (resume,) = (x for x in callbacks_of(trainer) if isinstance(x, ResumeCallback))
    try:
        if trainer.num_devices * trainer.num_nodes == 1:  # several lock once all are there
            resume.lock_folders(trainer, checkpoint)
        keep_rows(trainer.loggers)
        yield
    except BaseException:
        for logger in new if trainer.is_global_zero and not resume.has_begun else ():
            shutil.rmtree(logger.log_dir, ignore_errors=True)
        raise


def _of_validation(figures: Any) -> dict[str, float]:
    return {name: float(x) for name, x in figures.items() if name.startswith("val/")}


def _is_out_of_time(trainer: Trainer) -> bool:
    """Whether ``trainer.max_time``, which the next start may raise, has ended the run."""
    timers = [x for x in callbacks_of(trainer) if isinstance(x, Timer)]
    return any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers)

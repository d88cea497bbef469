"""What a run needs to go on as if nothing had happened, besides its modules' state."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from detox_lightning.callbacks.averaging import KEY as AVERAGED
from detox_lightning.callbacks.averaging import AveragingCallback
from detox_lightning.errors import InputError
from detox_lightning.runs.loop_state import SETTLED, move, next_point, steps_logged
from detox_lightning.runs.run_folders import log_folder, log_folders
from detox_lightning.runs.truncate_logs import cut_curves, put_rows_back
from detox_lightning.stages.refused_callbacks import callbacks_of

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, lockf
except ImportError:  # Windows: goes without
    lockf = None  # type: ignore[assignment]

FIGURES, RUN, ENDED = "validation", "run", "ended_early"  # keys in a checkpoint
LOCK = ".lock"
PLACES = "checkpoint.dirpath, trainer.logger.version, trainer.logger.save_dir"


class Lock:
    """Tells other processes that a run is alive, until this one lets go of it or dies, however.

    Where there are no locks, nobody is told.
    """

    def __init__(self) -> None:
        """Nothing is held yet."""
        self.file: Path | None = None
        self.handle: int | None = None

    def take(self, folder: Path) -> bool:
        """Takes a folder's lock; not twice.

        Args:
            folder: Of a run's checkpoints; made if it isn't there.

        Returns:
            False if another process has it.
        """
        if self.handle is not None or lockf is None:
            return True
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lockf(handle, LOCK_EX | LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            return False
        except OSError as error:  # a file system without locks
            rank_zero_warn(
                f"{folder}: this disk has no locks ({error.strerror}), so nobody is told that a "
                "run is alive there: start no second one in it"
            )
        self.file, self.handle = folder / LOCK, handle
        return True

    def release(self) -> None:
        """Lets go of what is held."""
        if self.file is not None and self.handle is not None:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)
            os.close(self.handle)
        self.file = self.handle = None


def is_alive(folder: Path) -> bool:
    """Whether another process holds a folder's lock.

    Args:
        folder: Of a run's checkpoints.
    """
    if lockf is None:
        return False
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        lockf(handle, LOCK_SH | LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


class ResumeCallback(Callback):
    """Makes a resumed run's curves, figures and place in the epoch those of an uninterrupted one.

    In the run's folder, what a killed run logged after the checkpoint is cut off. The last
    validation's figures are kept in the checkpoint, as the end of a run shows them; so is that
    early stopping has ended it. While a run is alive it holds a lock in its folders.
    """

    def __init__(self) -> None:
        """Nothing was loaded yet."""
        self.run: str | None = None
        self.steps: int | None = None
        self.figures: dict[str, float] = {}
        self.locks: dict[Path, Lock] = {}  # by folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes the name of the run's folder, and holds its lock.

        Raises:
            InputError: If another process is at the same run, or writes into the same folder.
        """
        if stage != "fit":
            return
        self.run = log_folder(trainer).name  # asks all processes
        trainer.strategy.barrier()  # each has looked for a run that isn't alive
        self.hold(trainer, trainer.ckpt_path)

    def hold(self, trainer: Trainer, checkpoint: Any) -> None:
        """Takes the lock of the run that goes on or begins.

        Args:
            trainer: All processes must ask.
            checkpoint: From which it goes on; None if it begins.

        Raises:
            InputError: If another process is at the same run, or writes into the same folder.
        """
        callback: Any = trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None) or log_folder(trainer) / "checkpoints"
        if callback is None or getattr(trainer, "fast_dev_run", False) or "://" in str(folder):
            return
        goes_on = checkpoint and Path(checkpoint).parent.resolve() == Path(folder).resolve()
        taken = self.take([*log_folders(trainer), Path(folder)]) if trainer.is_global_zero else None
        taken = trainer.strategy.broadcast(taken)
        if taken and goes_on:
            raise InputError(
                f"--ckpt_path {checkpoint}: this run is still going on in another process; wait "
                "for its end, or begin a run of its own without --ckpt_path"
            )
        if taken:
            raise InputError(
                f"{taken}: a run is still going on there in another process; wait for its end, or "
                f"give this one another place ({PLACES})"
            )

    def take(self, folders: list[Path]) -> Path | None:
        """Takes folders' locks.

        Args:
            folders: All that this run writes into.

        Returns:
            One that another process has; None: there is none.
        """
        for folder in folders:
            lock = self.locks.setdefault(folder.resolve(), Lock())
            if not lock.take(folder):
                self.release()
                return folder
        return None

    def release(self) -> None:
        """Lets go of all locks."""
        while self.locks:
            self.locks.popitem()[1].release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Puts back what a start that failed has not come to use; lets go of the run."""
        if trainer.is_global_zero:
            put_rows_back(trainer.loggers)
        self.release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the run."""
        self.release()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the last validation's figures, the folder's name, whether it is stopped early."""
        known = trainer.callback_metrics.items()
        checkpoint[FIGURES] = {name: float(x) for name, x in known if name.startswith("val/")}
        checkpoint[RUN] = self.run
        checkpoint[ENDED] = trainer.should_stop and not has_run_out_of_time(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes what is put back later; takes up the place in the epoch for other batches."""
        loops = checkpoint["loops"]["fit_loop"]
        self.steps = steps_logged(loops) if SETTLED in loops else None
        figures = checkpoint.get(FIGURES, {}).items()
        self.figures = {name: float(x) for name, x in figures if name.startswith("val/")}
        if trainer.state.fn == "fit" and AVERAGED in checkpoint and not averages(trainer):
            rank_zero_warn(
                "the checkpoint's run averaged its weights, and this one goes on from the average: "
                "give AveragingCallback in trainer.callbacks again to go on with both"
            )
        stops = any(isinstance(callback, EarlyStopping) for callback in callbacks_of(trainer))
        if stops and checkpoint.get(ENDED) and trainer.state.fn == "fit":
            trainer.should_stop = True
            rank_zero_info(
                "early stopping has ended this run: nothing is left to do. To train on, leave "
                "EarlyStopping out of trainer.callbacks"
            )
        feed = getattr(getattr(trainer, "datamodule", None), "feed", None)
        if feed is not None and feed.moved:
            move(loops, feed.batches)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts the curves; puts the figures back.

        Raises:
            InputError: If this process began elsewhere than the first, as without a common disk.
        """
        begun = str(trainer.ckpt_path)
        if (first := trainer.strategy.broadcast(begun)) != begun:
            raise InputError(
                f"--ckpt_path: process {trainer.global_rank} began from {begun}, process 0 from "
                f"{first}: the folder of runs must be on a disk that all nodes share"
            )
        point = next_point(pl_module, self.steps or 0) if trainer.ckpt_path else 0
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                cut_curves(logger, point)
        trainer.callback_metrics.update({k: torch.tensor(x) for k, x in self.figures.items()})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets Lightning's x-axis right, which it moves by one when it loads some checkpoints."""
        if self.steps is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.steps
            self.steps = None


def has_run_out_of_time(trainer: Trainer) -> bool:
    """Whether ``trainer.max_time``, which may be raised, has ended a run."""
    timers = [x for x in callbacks_of(trainer) if isinstance(x, Timer)]
    return any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers)


def averages(trainer: Trainer) -> bool:
    """Whether a run keeps an average of its weights."""
    return any(isinstance(callback, AveragingCallback) for callback in callbacks_of(trainer))

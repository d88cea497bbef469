"""Ends the processes that Lightning has started if the first one fails or is killed.

Lightning's launcher ends all processes if one that it has started fails, but not if the first one,
in which it runs, fails: the others may then wait in a collective operation for hours. torchrun and
``srun --kill-on-bad-exit=1`` end all processes themselves.
"""

import os
import sys
import threading
import time
from subprocess import Popen
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from detox_lightning.errors import InputError, Stopped, TrainingError

PERIOD = 1.0  # seconds between two checks of the parent process
PATIENCE = 5.0  # seconds that another process may take to end by itself


class PeerFailureCallback(Callback):
    """Ends a run's other processes if the first one fails; names the rank that failed."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watches the parent process if that is the run's first process."""
        self.ended = threading.Event()
        environment: Any = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, LightningEnvironment) and environment.local_rank() > 0:
            arguments = (os.getppid(), self.ended)
            threading.Thread(target=_end_with_parent, args=arguments, daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stops watching."""
        self.ended.set()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Names the rank in the message and ends the processes that this one has started."""
        self.ended.set()
        launcher = trainer.strategy.launcher
        started = launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []
        children = list(started)
        started.clear()  # or Lightning, seeing one of them end, would kill this process
        is_by_all = isinstance(exception, TrainingError) and exception.by_all
        if trainer.world_size == 1 or is_by_all or isinstance(exception, Stopped):
            return  # all processes end by themselves
        if isinstance(exception, (InputError, TrainingError)):
            exception.args = (f"rank {trainer.global_rank}: {exception}",)
        elif isinstance(exception, RuntimeError):  # perhaps a peer that failed closed a connection
            end = time.monotonic() + PATIENCE  # its process ends a moment later
            while (failed := _first_failed(children)) is None and time.monotonic() < end:
                time.sleep(PERIOD / 10)
            if failed is not None:
                rank = trainer.global_rank + failed
                exception.__cause__ = TrainingError(f"rank {rank} has failed, see above")
        for child in children:
            child.kill()


def _first_failed(children: "list[Popen[bytes]]") -> int | None:
    """Returns the number, from 1, of the first process that has failed."""
    return next((number for number, child in enumerate(children, 1) if child.poll()), None)


def _end_with_parent(parent: int, ended: threading.Event) -> None:
    """Ends this process if its parent is gone, even while it waits where no handler can run."""
    while not ended.wait(PERIOD):
        if os.getppid() != parent and not ended.wait(PATIENCE):
            sys.stderr.write("error: rank 0: its process is gone: killed, or out of memory\n")
            sys.stderr.flush()
            os._exit(1)

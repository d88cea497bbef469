"""Ends a run on a signal: finishes the rollout, saves, and says how to resume.

Lightning's own handlers save in the middle of a step (SLURM), or start a collective operation in
the handler (several processes). The handlers here replace them while ``fit`` trains.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from detox_lightning.errors import STOP_SIGNALS
from detox_lightning.runs.provenance import command_of, shell_line


class StopRequests:
    """Records the first signal that asks the run to end.

    Attributes:
        received: The signal's number; 0 if there was none.
    """

    def __init__(self) -> None:
        self.received = 0

    def listen(self) -> None:
        """Replaces Lightning's handlers, which are restored when ``fit`` ends."""
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            for signum in (*STOP_SIGNALS, signal.SIGINT):
                # a shell ignores it for processes in the background
                is_ignored = signal.getsignal(signum) is signal.SIG_IGN
                if not (signum == signal.SIGINT and is_ignored):
                    signal.signal(signum, self._record)

    def _record(self, signum: int, frame: Any) -> None:
        """Records a signal; a second Ctrl-C ends the program at once."""
        is_ctrl_c = signum == signal.SIGINT
        if is_ctrl_c:
            signal.signal(signum, signal.default_int_handler)
        if not self.received:
            self.received = signum
            name = signal.Signals(signum).name
            more = "; press Ctrl-C once more to end it at once" if is_ctrl_c else ""
            # not print, which the handler may have interrupted
            line = "\n" if os.isatty(2) else ""  # a bar stands there, and erases a line
            os.write(2, f"{line}{name}: The run stops after this rollout{more}.\n{line}".encode())

    def agreed(self, trainer: Trainer) -> int:
        """Returns a signal that any process has received, the same in all processes; 0 if none.

        A collective operation: all processes must call it.
        """
        if trainer.world_size == 1 or not torch.distributed.is_initialized():
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        # not strategy.reduce, which adds a barrier, at every batch
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)


def how_to_resume(trainer: Trainer, saved: str | None) -> str:
    """Returns the message for a stopped run, which is ``saved`` in a checkpoint, if in any."""
    command = command_of(trainer)
    words = without_checkpoint(sys.argv[1:] if command is None else command.words)
    state = f"Everything is saved in {saved}" if saved else "There is no checkpoint yet"
    return f"{state}.\nTo resume: {shell_line([*words, '--ckpt_path', 'last'])}"


def without_checkpoint(words: Sequence[str]) -> list[str]:
    """Returns a command line's words without ``--ckpt_path`` and its value."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--ckpt_path":
            next(rest, None)
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    return kept


def requeue(trainer: Trainer, signum: int) -> None:
    """Asks SLURM to start the job again, if Lightning would do so and the job would then resume.

    If a program of the user's made the trainer, it is trusted to resume.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return
    if signum != environment.requeue_signal or not trainer.is_global_zero:
        return
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    command = command_of(trainer)
    if command is not None and not command.resumes:
        rank_zero_warn(
            f"SLURM is not asked to start job {job} again: its command would start a new run; "
            "add --ckpt_path last to it, or ckpt_path: last to its configuration"
        )
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True)
        rank_zero_info(f"SLURM will start job {job} again")
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"SLURM could not be asked to start job {job} again: {error}")

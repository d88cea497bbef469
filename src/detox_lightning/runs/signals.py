"""What is done when a run is asked to end: finish the rollout, save, say how to go on.

Lightning's own handlers save in the midst of a step (SLURM) or begin a collective operation from
within the handler (several processes), so ours take their place while ``fit`` trains.
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

from detox_lightning.data.loader_workers import SIGNALS
from detox_lightning.runs.command_line import command_of
from detox_lightning.runs.provenance import command


class Requests:
    """Notes signals that ask the run to end."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self.received = 0

    def listen(self) -> None:
        """Takes the place of Lightning's handlers, which come back when ``fit`` ends."""
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            for signum in (*SIGNALS, signal.SIGINT):
                is_deaf = signal.getsignal(signum) is signal.SIG_IGN  # as in a shell's background
                if not (signum == signal.SIGINT and is_deaf):
                    signal.signal(signum, self.note)

    def note(self, signum: int, frame: Any) -> None:
        """Remembers a signal; a second one changes nothing, but a second Ctrl-C ends at once.

        Args:
            signum: Its number.
            frame: Where the program was.
        """
        is_by_hand = signum == signal.SIGINT
        if is_by_hand:
            signal.signal(signum, signal.default_int_handler)
        if not self.received:
            self.received = signum
            name = signal.Signals(signum).name
            more = "; once more ends at once" if is_by_hand else ""
            # not print: a handler may have interrupted one
            os.write(2, f"{name}: stops after this rollout{more}\n".encode())

    def agreed(self, trainer: Trainer) -> int:
        """The signal that any process got, the same in all of them; 0 if none did.

        Args:
            trainer: All processes must ask.
        """
        if trainer.world_size == 1 or not torch.distributed.is_initialized():
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        # not by the strategy, which would let all wait for each other first, at every batch
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)


def how_to_go_on(saved: str | None, given: Sequence[str] | None = None) -> str:
    """What the user reads when a run has been stopped.

    Args:
        saved: The checkpoint; None if there is none.
        given: The command line's words; None: the program's own.
    """
    kept = without_checkpoint(sys.argv[1:] if given is None else given)
    words = command([*kept, "--ckpt_path", "last"])
    state = f"everything is saved in {saved}" if saved else "there is no checkpoint yet"
    return f"{state}. To go on: {words}"


def without_checkpoint(words: Sequence[str]) -> list[str]:
    """A command line's words without ``--ckpt_path``."""
    kept, flag = [], "--ckpt_path"
    for place, word in enumerate(words):
        is_value = place > 0 and words[place - 1] == flag
        if not is_value and word != flag and not word.startswith(f"{flag}="):
            kept.append(word)
    return kept


def requeue(trainer: Trainer, signum: int) -> None:
    """Has SLURM start the job again, where Lightning would and its command goes on with the run.

    Args:
        trainer: Knows whether this is a job of SLURM's, and of the command line whether that, given
            once more, begins anew; a program of the user's own may go on in another way.
        signum: What was received.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return
    if signum != environment.requeue_signal or not trainer.is_global_zero:
        return
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    made_by = command_of(trainer)
    if made_by is not None and not made_by.resumes:
        rank_zero_warn(
            f"SLURM is not asked to start job {job} again: its command would begin anew; "
            "give --ckpt_path last in it, or ckpt_path: last in its configuration"
        )
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True)
        rank_zero_info(f"SLURM will start job {job} again")
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"SLURM could not be asked to start job {job} again: {error}")

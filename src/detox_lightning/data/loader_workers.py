"""Processes that load data, and the signals that they outlive."""

import multiprocessing
import signal

from detox_lightning.errors import STOP_SIGNALS


def work_on(worker: int) -> None:
    """Lets a worker outlive a request that the run should end: the rollout still needs its batches.

    A terminal sends Ctrl-C to workers, too.

    Args:
        worker: Its number.
    """
    for signum in (*STOP_SIGNALS, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def end_workers() -> None:
    """Ends workers when the program exits, which would wait for those that ignore its SIGTERM."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()

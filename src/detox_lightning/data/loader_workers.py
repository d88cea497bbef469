"""Processes that prepare batches, and the signals that they ignore."""

import multiprocessing
import signal

from detox_lightning.errors import STOP_SIGNALS


def ignore_signals(worker: int) -> None:
    """Keeps a worker alive when the run is asked to end: the rollout still needs its batches."""
    for signum in (*STOP_SIGNALS, signal.SIGINT):  # a terminal sends Ctrl-C to workers, too
        signal.signal(signum, signal.SIG_IGN)


def end_workers() -> None:
    """Kills the workers when the program exits, as they ignore the SIGTERM that it waits for."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()

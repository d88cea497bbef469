"""What a loader's workers do when the system asks a run to end."""

import signal
import subprocess
import sys
from typing import Any

import pytest

from detox_lightning.data.loaders import Loaders
from detox_lightning.errors import STOP_SIGNALS

ROWS: Any = list(range(8))


class Interrupted:
    """A collate function whose process is sent signals before its first batch."""

    def __init__(self, *signals: int):
        self.signals = signals

    def __call__(self, rows: list[int]) -> list[int]:
        for signum in self.signals:
            signal.raise_signal(signum)
        self.signals = ()
        return rows


def test_workers_go_on_when_the_run_is_asked_to_end() -> None:
    assert {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} == set(STOP_SIGNALS)
    loaders = Loaders(2, None, num_workers=2, seed=3)
    expected = list(loaders.train(ROWS, list, None))
    assert list(loaders.train(ROWS, Interrupted(*STOP_SIGNALS, signal.SIGINT), None)) == expected
    rows = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert list(loaders.evaluation(ROWS, Interrupted(*STOP_SIGNALS), None)) == rows


@pytest.mark.slow
def test_workers_end_with_the_program() -> None:
    """Also those that nobody has told to."""
    lines = [
        "from detox_lightning.lazy_imports import deferred",
        "with deferred():",
        "    from detox_lightning.data.loaders import Loaders",
        "batches = iter(Loaders(2, None, 1, 3).train(list(range(8)), list, None))",
        "print(len(next(batches)))",
    ]
    words = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr

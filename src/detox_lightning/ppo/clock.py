"""How long the parts of a rollout take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds spent in named blocks; waits for the device at the end of each if it is a GPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self.start = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times a block under ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.now() - start

    def now(self) -> float:
        """Returns the time after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def metrics(self, tokens: float | None) -> dict[str, float]:
        """Returns ``time/<name>`` and ``time/total`` in seconds, and tokens per second.

        ``tokens`` are the response tokens of all ranks; None if they were not trained on.
        """
        total = self.now() - self.start
        named = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        rate = {} if tokens is None else {"time/tokens_per_second": tokens / total}
        return {**named, "time/total": total, **rate}

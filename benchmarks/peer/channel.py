"""How a side is asked for rounds, and what it measures: the same code in both environments."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

LORA = "lora_"


class Channel:
    """Orders and answers, a line of JSON each; what else is printed goes to the error stream."""

    def __init__(self) -> None:
        """Takes the standard streams."""
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> dict[str, Any]:
        """The next order; leaves the program where there are no more."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        return json.loads(line)

    def answer(self, **row: Any) -> None:
        """Sends an answer."""
        self.answers.write(json.dumps(row) + "\n")
        self.answers.flush()


class Effort:
    """Time and memory that this process spends from here on."""

    def __init__(self, device: str) -> None:
        """Starts the clocks.

        Args:
            device: ``cpu`` or ``cuda``.
        """
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()
        self.wall, self.cpu = self.now(), time.process_time()

    def now(self) -> float:
        """Seconds of the wall's clock, all work that was asked for done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def spent(self) -> dict[str, float]:
        """``round`` and ``cpu`` in seconds, ``peak_mb`` on the device where the work is done."""
        wall = self.now() - self.wall
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else host_peak()
        return {"round": wall, "cpu": time.process_time() - self.cpu, "peak_mb": peak}


def forget_peak() -> None:
    """Begins the process's peak of memory anew, where Linux lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def host_peak() -> float:
    """The most memory that this process held at a time, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


class Adapter:
    """The adapter's weights, to see whether they move."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Notes them.

        Args:
            model: With LoRA layers.
        """
        self.weights = [p for n, p in model.named_parameters() if LORA in n and p.requires_grad]
        self.before = self.copies()

    def copies(self) -> list[torch.Tensor]:
        """What they are now."""
        return [weight.detach().clone() for weight in self.weights]

    def moved(self) -> float:
        """The largest change of a weight since the last call."""
        now = self.copies()
        moves = [(new - old).abs().max() for new, old in zip(now, self.before, strict=True)]
        self.before = now
        return float(max(moves))


class ScoredTokens:
    """Counts the tokens that a classifier reads, padding left out."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        """Listens.

        Args:
            classifier: From transformers.
        """
        self.count = 0
        classifier.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, classifier: Any, args: Any, inputs: dict[str, Any]) -> None:
        """Adds a call's."""
        self.count += int(inputs["attention_mask"].sum())

    def taken(self) -> int:
        """How many since the last call."""
        count, self.count = self.count, 0
        return count

"""Orders to a side and its measurements: the same code in both environments."""

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
    """Orders and answers, one line of JSON each; other output goes to the error stream."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> dict[str, Any]:
        """Waits for the next order; exits if there are no more."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        return json.loads(line)

    def answer(self, **row: Any) -> None:
        """Sends an answer."""
        self.answers.write(json.dumps(row) + "\n")
        self.answers.flush()


class Effort:
    """The time and memory that this process uses from now on."""

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
        """Returns the wall time in seconds, once all GPU work is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def spent(self) -> dict[str, float]:
        """Returns ``round`` and ``cpu`` in seconds, and ``peak_mb`` of the device that works."""
        wall = self.now() - self.wall
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else host_peak()
        return {"round": wall, "cpu": time.process_time() - self.cpu, "peak_mb": peak}


def forget_peak() -> None:
    """Resets the peak memory of the process, if Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def host_peak() -> float:
    """Returns the peak resident memory of this process, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


class Adapter:
    """The adapter's weights, to check whether they change."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Copies the weights.

        Args:
            model: A model with LoRA layers.
        """
        self.weights = [p for n, p in model.named_parameters() if LORA in n and p.requires_grad]
        self.before = self.copies()

    def copies(self) -> list[torch.Tensor]:
        """Returns copies of the weights."""
        return [weight.detach().clone() for weight in self.weights]

    def moved(self) -> float:
        """Returns the largest change of a weight since the last call."""
        now = self.copies()
        moves = [(new - old).abs().max() for new, old in zip(now, self.before, strict=True)]
        self.before = now
        return float(max(moves))


class ScoredTokens:
    """Counts the tokens that a classifier reads, without padding."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        """Registers a hook.

        Args:
            classifier: A classifier of transformers.
        """
        self.count = 0
        classifier.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, classifier: Any, args: Any, inputs: dict[str, Any]) -> None:
        """Adds the tokens of a call."""
        mask = inputs["attention_mask"]
        self.count += inputs["input_ids"].numel() if mask is None else int(mask.sum())

    def taken(self) -> int:
        """Returns the number of tokens since the last call."""
        count, self.count = self.count, 0
        return count

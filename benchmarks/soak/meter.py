"""Takes readings of a training process at regular intervals."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
from lightning.pytorch import Callback, LightningModule, Trainer

from soak.readings import Reading

MB = 1e6


class Meter(Callback):
    """Appends a reading to a file after every ``every`` rollouts.

    A reading is taken just before the next rollout begins, when the last one's validation and
    checkpoint are done.
    """

    def __init__(self, file: Path, every: int) -> None:
        """Takes the file and the interval.

        Args:
            file: File for the readings, one line of JSON each.
            every: Rollouts between two readings.
        """
        self.file, self.every = file, every
        self.process = psutil.Process()
        self.begin: tuple[float, float] | None = None
        self.tokens = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Counts sampled tokens."""
        self.tokens += int(trainer.callback_metrics["tokens/total"])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Takes a reading if one is due."""
        rollouts: Any = pl_module.rollouts
        if rollouts % self.every == 0:
            with self.file.open("a", encoding="utf8") as lines:
                lines.write(json.dumps(self.read(rollouts, Path(str(trainer.log_dir)))) + "\n")

    def read(self, rollouts: int, folder: Path) -> dict[str, float]:
        """Returns a :class:`Reading` as a dictionary.

        Args:
            rollouts: Number of finished rollouts.
            folder: The run's folder.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        self.begin = self.begin or (wall, cpu)
        memory = self.process.memory_full_info()
        handles = getattr(self.process, "num_fds", None) or self.process.num_handles
        return Reading(
            rollouts=rollouts,
            wall=wall - self.begin[0],
            cpu=cpu - self.begin[1],
            tokens=self.tokens,
            rss=memory.rss / MB,
            pss=getattr(memory, "pss", 0) / MB,
            uss=memory.uss / MB,
            handles=handles(),
            threads=self.process.num_threads(),
            children=len(self.process.children(recursive=True)),
            folder=sum(x.stat().st_size for x in folder.rglob("*") if x.is_file()) / MB,
        )._asdict()

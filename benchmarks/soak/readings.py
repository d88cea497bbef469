"""A reading of a training process, and its file format."""

import json
from pathlib import Path
from typing import NamedTuple


class Reading(NamedTuple):
    """The state of a process between two rollouts.

    Attributes:
        rollouts: Number of finished rollouts.
        wall: Wall time since the first reading, in seconds.
        cpu: CPU time since the first reading, in seconds.
        tokens: Number of tokens sampled since the first reading.
        rss: Resident memory, in MB of 1e6 bytes.
        pss: Resident memory with a proportional part of shared pages, in MB; 0 if unknown.
        uss: Unshared resident memory, in MB.
        handles: Number of open files, pipes and sockets.
        threads: Number of threads.
        children: Number of child processes.
        folder: Size of the run's folder, in MB.
    """

    rollouts: int
    wall: float
    cpu: float
    tokens: int
    rss: float
    pss: float
    uss: float
    handles: int
    threads: int
    children: int
    folder: float


def read_file(file: Path) -> list[Reading]:
    """Returns the readings of a file, in order."""
    with file.open(encoding="utf8") as lines:
        return [Reading(**json.loads(line)) for line in lines]

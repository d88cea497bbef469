"""Measures steps of one setting, in a process of its own that imports everything before it starts.

Times are CPU seconds of the process, which exclude other programs' work on a single thread.
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = Path(__file__).parents[1]
PRELOADED = (
    *("ours", "detox_lightning.cli.command", "datasets", "peft"),
    *("transformers.models.t5.modeling_t5", "transformers.models.roberta.modeling_roberta"),
    *("torch.fx.experimental.proxy_tensor", "torch.utils.tensorboard"),
)
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


class Rows:
    """A channel that orders all rounds at once, and collects their rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def wait(self) -> None:
        """Continues at once."""

    def answer(self, **row: Any) -> None:
        """Collects a round's row; the answer before the first round is empty."""
        self.rows += [row] if row else []


class Points:
    """Starts a process for each point."""

    def __init__(self, cache: str) -> None:
        """Sets the environment that all processes share.

        Args:
            cache: Folder for prepared data.
        """
        found = [str(FOLDER), str(FOLDER / "peer"), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, found))
        os.environ |= {**VARIABLES, "HF_DATASETS_CACHE": cache, "PYTHONPATH": path}
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))

    def steps(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the rows of all rounds of a job.

        Args:
            job: A job as for our side of ``benchmarks/peer.py``.
        """
        with ProcessPoolExecutor(1, mp_context=self.context) as pool:
            return pool.submit(quietly, job).result()


def steps(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Does the steps in this process.

    Args:
        job: See :meth:`Points.steps`.
    """
    import ours

    from detox_lightning.ppo import clock

    vars(clock)["time"] = SimpleNamespace(perf_counter=time.process_time)
    channel: Any = Rows()
    ours.train(job, channel)
    return channel.rows


def quietly(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Does the same without output."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    return steps(job)

"""Steps of one setting, in a process of their own that has imported everything before it is asked.

Times are CPU seconds of the process: on one thread what a quiet machine's clock would say, without
other programs' work.
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
    """Asks for all rounds, and keeps the answers."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def wait(self) -> None:
        """Go on."""

    def answer(self, **row: Any) -> None:
        """Keeps a round's row; what comes before the first is empty."""
        self.rows += [row] if row else []


class Points:
    """Starts processes for points."""

    def __init__(self, cache: str) -> None:
        """Sets what all of them have in common.

        Args:
            cache: Folder for prepared data.
        """
        found = [str(FOLDER), str(FOLDER / "peer"), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, found))
        os.environ |= {**VARIABLES, "HF_DATASETS_CACHE": cache, "PYTHONPATH": path}
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))

    def steps(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of all its rounds.

        Args:
            job: As for our side of ``benchmarks/peer.py``.
        """
        with ProcessPoolExecutor(1, mp_context=self.context) as pool:
            return pool.submit(quietly, job).result()


def steps(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Does the steps here.

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
    """:func:`steps`, without what Lightning says of them."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    return steps(job)

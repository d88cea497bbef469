"""Processes of one run as clusters start them: told their places by their environment."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SECONDS = 400  # no process may take longer, hanging ones included
# opened once, by the process that all others are forked from
HEAVY = ["detox_lightning.cli.command", "transformers.models.t5.modeling_t5", "peft", "datasets"]


def free_port() -> str:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def two_nodes() -> list[dict[str, str]]:
    """What a user sets before the same command on two machines, of one device each."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [{**common, "NODE_RANK": str(node)} for node in (0, 1)]


def slurm() -> list[dict[str, str]]:
    """What ``srun --ntasks-per-node=2`` sets for its two tasks."""
    common = {
        "SLURM_JOB_ID": free_port(),
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    return [{**common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]


def elastic() -> list[dict[str, str]]:
    """What ``torchrun --nproc_per_node=2`` sets for its two processes."""
    common = {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    return [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


@contextmanager
def started(
    folder: Path, places: list[dict[str, str]], function: Callable[..., None], *args: Any
) -> Iterator[list[BaseProcess]]:
    """Processes that each do ``function(*args)``; ``folder/output<n>`` is what they say."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    processes = [
        context.Process(target=_begin, args=(folder / f"output{n}", place, function, args))
        for n, place in enumerate(places)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def codes(processes: list[BaseProcess]) -> list[int | None]:
    """How the processes ended; None for those that don't end."""
    for process in processes:
        process.join(SECONDS)
    return [process.exitcode for process in processes]


def _begin(
    output: Path, place: dict[str, str], function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    import torch

    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    # otherwise Lightning shares out the machine's cores, by the number of its processes
    os.environ.update({**place, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    function(*args)

"""Where one process of a run that Lightning starts fails, all end, and say which one it was."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from detox_lightning.errors import Stopped, TrainingError
from detox_lightning.lazy_imports import deferred

with deferred():  # as the command line does: this file is also what two processes run
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    from detox_lightning.runs.peer_failure import PeerFailureCallback
    from toys import make_trainer

SECONDS = 60  # in which all must have ended


class Failing(LightningModule):
    """Fails in the process of one rank, while the other would wait for ever."""

    def __init__(self, rank: int, way: str):
        super().__init__()
        self.rank, self.way = rank, way
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        print(f"process {os.getpid()}", file=sys.stderr, flush=True)
        self.trainer.strategy.barrier()
        if self.global_rank != self.rank:
            signal.pause()  # as a collective operation on GPUs may
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "can't go on":
            raise TrainingError("rollout 3: no reward")
        raise ValueError("boom\nand more")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def train(folder: str, rank: str, way: str) -> None:
    options = {"callbacks": [PeerFailureCallback()], "devices": 2, "strategy": "ddp"}
    trainer = make_trainer(Path(folder), max_epochs=1, **options)
    trainer.fit(Failing(int(rank), way), DataLoader(torch.zeros(4, 1)))


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("rank", "way", "code", "reason"),
    [
        (0, "can't go on", 1, "TrainingError: rank 0: rollout 3: no reward"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0, "raises", 1, "ValueError: boom"),
                (0, "killed", -signal.SIGKILL, "error: rank 0: its process is gone: killed, or "),
                (1, "can't go on", -signal.SIGKILL, "TrainingError: rank 1: rollout 3: no reward"),
            )
        ),
    ],
)
def test_all_processes_end_with_one(
    tmp_path: Path, rank: int, way: str, code: int, reason: str
) -> None:
    output = tmp_path / "output"
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with output.open("w") as file:
        words = [sys.executable, __file__, str(tmp_path), str(rank), way]
        ended = subprocess.run(
            words, env=environment, stdout=file, stderr=file, timeout=400, check=False
        )
    end = time.monotonic() + SECONDS
    said = output.read_text()
    processes = {int(number) for number in re.findall(r"process (\d+)", said)}
    assert len(processes) == 2, said
    while any(map(runs, processes)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(runs, processes))
    said = output.read_text()
    assert reason in said
    assert ended.returncode == code


def after(exception: Exception) -> list[str]:
    """What the first of three processes does when it fails."""
    did: list[str] = []
    launcher = _SubprocessScriptLauncher(None, 3, 1)  # type: ignore[arg-type]
    launcher.procs = [child(did), child(did)]
    trainer: Any = SimpleNamespace(
        global_rank=0, world_size=3, strategy=SimpleNamespace(launcher=launcher)
    )
    PeerFailureCallback().on_exception(trainer, None, exception)  # type: ignore[arg-type]
    return did


def child(did: list[str]) -> Any:
    return SimpleNamespace(poll=lambda: 1, kill=lambda: did.append("kill"))


def test_a_run_that_was_asked_to_end_has_not_failed() -> None:
    assert after(Stopped("everything is saved", signal.SIGTERM)) == []


def test_no_process_is_blamed_for_what_all_saw() -> None:
    error = TrainingError("rollout 3: no reward")
    assert after(error) == ["kill", "kill"]
    assert str(error) == "rank 0: rollout 3: no reward"
    error = TrainingError("rollout 3: the loss is nan")
    error.by_all = True
    assert after(error) == []
    assert str(error) == "rollout 3: the loss is nan"


def test_a_connection_that_was_closed_is_blamed_on_the_process_that_closed_it() -> None:
    error = RuntimeError("Connection closed by peer")
    assert after(error) == ["kill", "kill"]
    assert str(error.__cause__) == "rank 1 has failed, see above"


if __name__ == "__main__":
    train(*sys.argv[1:])

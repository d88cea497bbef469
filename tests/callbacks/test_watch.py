"""Where one process of a run fails, all end, and say which one it was."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from detox_lightning.errors import TrainingError
from detox_lightning.runs.peer_failure import GONE, WatchCallback
from launching import codes, slurm, started
from toys import make_trainer


class Failing(LightningModule):
    """Whose process of one rank fails in one way, while the other waits and would wait for ever."""

    def __init__(self, rank: int, way: str):
        super().__init__()
        self.rank, self.way = rank, way
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_rank != self.rank:
            if self.way == "in vain":  # as a collective on GPUs may
                signal.pause()
            self.trainer.strategy.barrier()
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "can't go on":
            raise TrainingError("rollout 3: no reward")
        raise ValueError("boom\nand more")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def train(folder: Path, rank: int, way: str) -> None:
    callbacks = [WatchCallback()]
    trainer = make_trainer(folder, callbacks=callbacks, devices=2, strategy="ddp", max_epochs=1)
    trainer.fit(Failing(rank, way), DataLoader(torch.zeros(4, 1)))


@pytest.mark.parametrize(
    ("rank", "way", "why"),
    [
        (0, "raises", "ValueError: boom"),
        (1, "raises", "ValueError: boom"),
        (1, "in vain", "ValueError: boom"),
        (1, "can't go on", "rollout 3: no reward"),
        (0, "killed", GONE),
        (1, "killed", GONE),
    ],
)
def test_all_processes_end_with_one(tmp_path: Path, rank: int, way: str, why: str) -> None:
    with started(tmp_path, slurm(), train, tmp_path, rank, way) as processes:
        ended = codes(processes)
    assert ended[rank] == (-signal.SIGKILL if way == "killed" else 1)
    assert ended[1 - rank] == 1
    said = (tmp_path / f"output{1 - rank}").read_text()
    assert f"\nerror: rank {rank}: {why}\n" in f"\n{said}"
    if way == "can't go on":
        assert f"TrainingError: rank 1: {why}" in (tmp_path / "output1").read_text()

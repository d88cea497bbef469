"""Checkpoints that fail while they are taken up, and disks that are full when they are written."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from detox_lightning.errors import InputError, TrainingError
from detox_lightning.runs.atomic_save import AtomicCheckpointIO, remove_partial_checkpoints
from detox_lightning.runs.checkpoint_reading import effective_steps, optimizer_faults
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.resume_callback import ResumeCallback
from toys import make_trainer


class Tiny(LightningModule):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]


LOADER = DataLoader(torch.ones(2, 1), batch_size=1)


def trainer_of(folder: Path, epochs: int) -> Any:
    callbacks = [BoundedCheckpoint(dirpath=folder), ResumeCallback()]
    options = {"enable_checkpointing": True, "callbacks": callbacks}
    return make_trainer(folder, max_epochs=epochs, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one epoch."""
    folder = tmp_path_factory.mktemp("whole")
    trainer_of(folder, 1).fit(Tiny(), LOADER)
    return folder / "last.ckpt"


def of_ours(checkpoint: dict[str, Any]) -> dict[str, Any]:
    (key,) = [key for key in checkpoint["callbacks"] if key.startswith("Bounded")]
    return checkpoint["callbacks"][key]


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda c: c.update({"pytorch-lightning_version": "yesterday's"}),
    "no loops of fit": lambda c: c["loops"].clear(),
    "loops of fit": lambda c: c["loops"].update(fit_loop={}),
    "half of a loop": lambda c: c["loops"]["fit_loop"].pop("epoch_loop.batch_progress"),
    "no optimizers": lambda c: c["optimizer_states"].clear(),
    "optimizers": lambda c: c["optimizer_states"].__setitem__(0, {}),
    "their groups": lambda c: c["optimizer_states"][0].update(param_groups=[]),
    "no schedules": lambda c: c["lr_schedulers"].clear(),
    "figures": lambda c: c.update(validation={"val/kl": "a"}),
    "no figures": lambda c: c.update(validation=3),
    "our own state": lambda c: of_ours(c).clear() or of_ours(c).update(x=1),
    "a best one": lambda c: of_ours(c).update(best_k_models=3),
    "a weight": lambda c: c["state_dict"].update({"layer.weight": torch.zeros(3, 3)}),
}


@pytest.mark.parametrize("part", SPOILT)
def test_what_can_t_be_taken_up_names_the_file(tmp_path: Path, whole: Path, part: str) -> None:
    checkpoint = torch.load(whole, weights_only=True)
    SPOILT[part](checkpoint)
    file = tmp_path / "theirs.ckpt"
    torch.save(checkpoint, file)
    said = rf"^--ckpt_path {file}: this checkpoint can't be used \(.+\); give one that a run of"
    with pytest.raises(InputError, match=said):
        trainer_of(tmp_path, 2).fit(Tiny(), LOADER, ckpt_path=file, weights_only=True)


def moments(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's, of the first weight."""
    return checkpoint["optimizer_states"][0]["state"][0]


NAN = torch.full((1, 1), torch.nan)
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "nothing": (
        lambda c: c["optimizer_states"][0]["state"].clear(),
        "the state of its optimizer is empty after 2 steps",
    ),
    "a shape": (
        lambda c: moments(c).update(exp_avg=torch.zeros(3)),
        "the exp_avg of its optimizer is torch.float32 [3], where floating-point numbers [1, 1] "
        "are expected",
    ),
    "whole numbers": (
        lambda c: moments(c).update(exp_avg_sq=torch.zeros(1, 1, dtype=torch.int64)),
        "the exp_avg_sq of its optimizer is torch.int64 [1, 1], where floating-point numbers "
        "[1, 1] are expected",
    ),
    "no number": (
        lambda c: moments(c).update(exp_avg=NAN),
        "the exp_avg of its optimizer has numbers that are NaN or infinite",
    ),
    "no number of steps": (
        lambda c: moments(c).update(step=torch.inf),
        "the step of its optimizer has numbers that are NaN or infinite",
    ),
    "a square below 0": (
        lambda c: moments(c).update(exp_avg_sq=-torch.ones(1, 1)),
        "the exp_avg_sq of its optimizer has numbers below 0",
    ),
}


@pytest.mark.parametrize("part", BROKEN)
def test_an_optimizer_s_state_that_would_break_the_weights_names_the_file(
    tmp_path: Path, whole: Path, part: str
) -> None:
    checkpoint = torch.load(whole, weights_only=True)
    spoil, wrong = BROKEN[part]
    spoil(checkpoint)
    file = tmp_path / "theirs.ckpt"
    torch.save(checkpoint, file)
    with pytest.raises(InputError) as raised:
        trainer_of(tmp_path, 2).fit(Tiny(), LOADER, ckpt_path=file, weights_only=True)
    remedy = "give one from before it, such as previous.ckpt"
    assert str(raised.value) == f"--ckpt_path {file}: the checkpoint is broken: {wrong}; {remedy}"


def test_an_optimizer_without_state_is_sound(tmp_path: Path, whole: Path) -> None:
    """One that keeps none, one whose steps were all left out, and one that a scaler held back."""
    checkpoint = torch.load(whole, weights_only=True)
    (adam,) = checkpoint["optimizer_states"]
    weight = torch.nn.Parameter(torch.zeros(1))
    plain, keeping = (torch.optim.SGD([weight], momentum=momentum) for momentum in (0, 0.9))
    assert list(optimizer_faults(plain.state_dict(), plain, 2)) == []
    assert len(list(optimizer_faults(keeping.state_dict(), keeping, 2))) == 1
    assert list(optimizer_faults({**adam, "state": {}}, plain, 0)) == []
    assert effective_steps(checkpoint) == 2
    assert effective_steps({**checkpoint, "detox_lightning": {"faults": 2}}) == 0
    assert effective_steps({**checkpoint, "MixedPrecision": {"scale": 1.0}}) == 0


def test_what_holds_objects_is_told_in_our_words(tmp_path: Path, whole: Path) -> None:
    """Also where only Lightning opens it, as from an address."""
    file = tmp_path / "theirs.ckpt"
    torch.save({**torch.load(whole, weights_only=True), "other": Path("x")}, file)
    for verb in ("fit", "test"):
        run = getattr(trainer_of(tmp_path, 2), verb)
        with pytest.raises(InputError, match=rf"^--ckpt_path {file}: it holds more than tensors"):
            run(Tiny(), LOADER, ckpt_path=file, weights_only=True)


# -- full disks


class Full(io.FileIO):
    """A file on a disk with no more room after some bytes."""

    room = 0

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("room", [0, 100, 2000])
@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, before: bool
) -> None:
    """Torch has other words for it."""
    disk, last = AtomicCheckpointIO(lambda: [str(tmp_path)]), tmp_path / "last.ckpt"
    if before:
        disk.save_checkpoint({"x": torch.zeros(9)}, last)

    def opened(file: Path, mode: str) -> Any:
        full = Full(file, mode)
        full.room = room
        return full

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(TrainingError) as raised:
        disk.save_checkpoint({"x": torch.zeros(10_000)}, last)
    remains = (
        f"the earlier one, {last}, is intact; make room, then resume with --ckpt_path last"
        if before
        else "there is no earlier one; make room, then start again"
    )
    reason = "[Errno 28] No space left on device"
    said = f"the checkpoint {last} could not be written ({reason}): {remains}"
    assert str(raised.value) == said
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"] * before


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    """Only what processes that are no more have left half written is removed."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = gethostname()
    alive = tmp_path / f".last.ckpt.{host}-{os.getppid()}.partial"
    names = [f".last.ckpt.{host}-{dead.pid}.partial", ".last.ckpt.partial"]
    for file in [alive, *[tmp_path / name for name in names]]:
        file.write_text("half")
    remove_partial_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [alive]

"""Devices that are asked for, and those that are there."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator

from detox_lightning import SupervisedModule, Trainer
from detox_lightning.errors import InputError
from detox_lightning.stages.devices import (
    check_devices,
    check_gpus,
    choose_accelerator,
    choose_kernels,
)


@pytest.mark.parametrize("number", [2, "2", -1, "-1", [0, 1], "0,1", "1,"])
def test_gpus_that_are_there(number: Any) -> None:
    check_gpus(number, 2)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (3, "trainer.devices=3: torch sees 2 here; give at most 2"),
        ("3", "trainer.devices=3: torch sees 2 here; give at most 2"),
        ([2], "trainer.devices=[2]: torch sees 2 here, from 0 to 1; give each once"),
        ("2,", "trainer.devices=2,: torch sees 2 here, from 0 to 1; give each once"),
        ([0, 0], "trainer.devices=[0, 0]: torch sees 2 here, from 0 to 1; give each once"),
    ],
)
def test_gpus_that_are_not(number: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        check_gpus(number, 2)
    assert str(raised.value) == message


def test_gpus_are_looked_for_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match="torch sees 1 here; give at most 1"):
        check_devices(SimpleNamespace(accelerator="auto", devices=2))
    check_devices(SimpleNamespace(accelerator="auto", devices="auto"))
    check_devices(SimpleNamespace(accelerator="cpu", devices=2))


@pytest.mark.parametrize(
    ("kind", "gpu", "chosen"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("gpu", True, "cuda"),
        ("gpu", False, "cuda"),  # which Lightning refuses, as it isn't there
        ("cpu", True, "cpu"),
        (SimpleNamespace, True, SimpleNamespace),  # an accelerator of somebody's own
    ],
)
@pytest.mark.parametrize("apple", [True, False])
def test_apples_gpu_is_never_chosen(
    kind: Any,
    gpu: bool,
    chosen: Any,
    apple: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: apple)
    with caplog.at_level("INFO"):
        assert choose_accelerator(kind) == chosen
    told = ["This run uses the CPU: the package can't use Apple's GPU"]
    assert caplog.messages == (told if apple and chosen == "cpu" and kind == "auto" else [])


MPS = (
    "trainer.accelerator=mps: this package runs on CPUs and on CUDA's GPUs (Apple's have no "
    "float64, in which tokens are drawn); give one of auto, cpu, gpu, cuda"
)


def test_apples_gpu_is_refused_in_python(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        Trainer(accelerator="mps", logger=False)
    assert str(raised.value) == MPS


def test_a_trainer_of_lightnings_that_chose_it_is_refused_before_a_model_opens() -> None:
    module = SupervisedModule("no-such-model")
    strategy = SimpleNamespace(root_device=torch.device("mps"))
    module.trainer = SimpleNamespace(precision="32-true", strategy=strategy)  # type: ignore[assignment]
    with pytest.raises(InputError) as raised:
        module.setup("fit")
    assert str(raised.value) == MPS


def test_on_a_mac_lightning_gets_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    for options in ({}, {"accelerator": "auto"}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Lightning would advise to use it
            trainer = Trainer(default_root_dir=tmp_path, logger=False, **options)
        assert trainer.strategy.root_device == torch.device("cpu")


def test_cudnns_attention_is_left_out_and_the_others_stay() -> None:
    kinds = torch.backends.cuda
    try:
        kinds.enable_cudnn_sdp(True)
        choose_kernels()
        assert not kinds.cudnn_sdp_enabled()
        assert kinds.mem_efficient_sdp_enabled()
        assert kinds.flash_sdp_enabled()
        assert kinds.math_sdp_enabled()
    finally:
        kinds.enable_cudnn_sdp(True)

"""Devices that are asked for, and those that are there."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detox_lightning.errors import InputError
from detox_lightning.stages.devices import check_devices, check_gpus, choose_kernels


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

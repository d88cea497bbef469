"""Checks that the machine has the devices of a run, and chooses their attention kernels."""

import os
import re
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.errors import InputError
from detox_lightning.models.attention_masks import register_masks

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
MAX_CPU_PROCESSES = 8  # also on a machine with fewer cores, to try out distributed training


def check_devices(trainer: Any) -> None:
    """Refuses ``accelerator`` and ``devices`` of a trainer's configuration that can't be used.

    Raises:
        InputError: If this machine lacks them, or if they have no meaning.
    """
    kind, devices = trainer.accelerator, trainer.devices
    check_accelerator(kind)
    has_gpu = torch.cuda.is_available()
    if kind in ("gpu", "cuda") and not has_gpu:
        raise InputError(
            f"trainer.accelerator={kind}: torch sees no such device here; give cpu or auto, or "
            "check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
        )
    if isinstance(devices, str) and devices != "auto" and not re.fullmatch(r"-1|[\d, ]+", devices):
        raise InputError(f"trainer.devices={devices}: give how many, a list of them, -1 or auto")
    if str(devices) == "0" or (isinstance(devices, int) and devices < -1) or devices == []:
        raise InputError(f"trainer.devices={devices}: give at least 1, -1 for all, or auto")
    if devices == "auto":
        return
    if kind == "cpu" or not has_gpu:
        _check_processes(devices, os.cpu_count() or 1)
    else:
        check_gpus(devices, torch.cuda.device_count())


def check_accelerator(kind: Any) -> None:
    """Refuses a value of ``trainer.accelerator`` that nothing here was written for.

    Raises:
        InputError: If it is the name of such an accelerator.
    """
    if isinstance(kind, str) and kind not in ACCELERATORS:
        raise InputError(
            f"trainer.accelerator={kind}: this package runs on CPUs and on CUDA's GPUs (Apple's "
            "have no float64, in which tokens are drawn); give one of " + ", ".join(ACCELERATORS)
        )


def choose_accelerator(kind: Any) -> Any:
    """Returns the accelerator that Lightning gets for a value of ``trainer.accelerator``.

    Lightning would take an Apple GPU for ``auto`` and ``gpu``. Here ``auto`` is a CUDA GPU or else
    the CPU.
    """
    check_accelerator(kind)
    if kind == "auto" and not torch.cuda.is_available():
        if torch.backends.mps.is_available():
            rank_zero_info("This run uses the CPU: the package can't use Apple's GPU")
        return "cpu"
    return "cuda" if kind in ("auto", "gpu") else kind


def _check_processes(devices: int | str | list[int], cores: int) -> None:
    """Refuses far more CPU processes than there are cores, and a value that is no number."""
    if not str(devices).strip().isdecimal():
        raise InputError(
            f"trainer.devices={devices}: on a CPU this is how many processes train; give a number, "
            "such as 1"
        )
    if int(str(devices)) > (most := max(MAX_CPU_PROCESSES, cores)):
        raise InputError(
            f"trainer.devices={devices}: each is a process here, and this machine has {cores} "
            f"cores; give at most {most}"
        )


def check_gpus(devices: int | str | list[int], available: int) -> None:
    """Raises an InputError if a GPU of ``trainer.devices`` isn't there, or is named twice."""
    is_list = isinstance(devices, list) or "," in str(devices)
    parts = devices if isinstance(devices, list) else str(devices).split(",")
    numbers = [int(part) for part in parts if str(part).strip()]
    seen = f"trainer.devices={devices}: torch sees {available} here"
    if not is_list and numbers[0] > available:
        raise InputError(f"{seen}; give at most {available}")
    if (is_list and not set(numbers) <= set(range(available))) or len(set(numbers)) < len(numbers):
        raise InputError(f"{seen}, from 0 to {available - 1}; give each once")


def choose_kernels() -> None:
    """Chooses how attention is computed and masked, for the rest of the process.

    cuDNN's attention is disabled, which torch prefers in bfloat16 on recent GPUs. It plans again
    for each new shape, which takes a quarter of a second or more (docs/benchmarks.md), and the
    lengths of prompts and responses differ in every rollout. The remaining kernels do the same
    work. Masks are made by :func:`unread_mask`.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    register_masks()

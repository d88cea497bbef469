"""Whether the devices that a run asks for are there, and which of their kernels are used."""

import os
import re
from typing import Any

import torch

from detox_lightning.errors import InputError

KINDS = ("auto", "cpu", "gpu", "cuda", "mps")
MOST_ON_FEW_CORES = 8  # processes, for trying out how several train


def check_devices(trainer: Any) -> None:
    """Refuses devices that aren't there.

    Args:
        trainer: Its configuration.

    Raises:
        InputError: If they aren't.
    """
    kind, number = trainer.accelerator, trainer.devices
    if isinstance(kind, str) and kind not in KINDS:
        raise InputError(
            f"trainer.accelerator={kind}: this package trains on CPUs, CUDA's GPUs and Apple's; "
            f"give one of {', '.join(KINDS)}"
        )
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind in ("gpu", *is_there) and not is_there.get(kind, any(is_there.values())):
        raise InputError(
            f"trainer.accelerator={kind}: torch sees no such device here; give cpu or auto, or "
            "look to the driver (nvidia-smi) and to CUDA_VISIBLE_DEVICES"
        )
    if isinstance(number, str) and number != "auto" and not re.fullmatch(r"-1|[\d, ]+", number):
        raise InputError(f"trainer.devices={number}: give how many, a list of them, -1 or auto")
    if str(number) == "0" or (isinstance(number, int) and number < -1) or number == []:
        raise InputError(f"trainer.devices={number}: give at least 1, -1 for all, or auto")
    if kind == "cpu" or not any(is_there.values()):
        check_processes(number)
    elif kind != "mps" and is_there["cuda"]:
        check_gpus(number, torch.cuda.device_count())


def check_processes(number: int | str | list[int]) -> None:
    """Refuses a number of processes that no CPU is asked for, before they are started.

    Args:
        number: What ``trainer.devices`` says.

    Raises:
        InputError: If it isn't one, or far above that of the cores.
    """
    if number == "auto":
        return
    if not str(number).strip().isdecimal():
        raise InputError(
            f"trainer.devices={number}: on a CPU this is how many processes train; give a number, "
            "such as 1"
        )
    if int(str(number)) > (most := max(MOST_ON_FEW_CORES, os.cpu_count() or 1)):
        raise InputError(
            f"trainer.devices={number}: each is a process here, and this machine has "
            f"{os.cpu_count()} cores; give at most {most}"
        )


def check_gpus(number: int | str | list[int], there: int) -> None:
    """Refuses GPUs that aren't there.

    Args:
        number: What ``trainer.devices`` says: how many, or which.
        there: How many are.

    Raises:
        InputError: If one isn't there, or is asked for twice.
    """
    if number == "auto":
        return
    is_list = isinstance(number, list) or "," in str(number)
    parts = number if isinstance(number, list) else str(number).split(",")
    given = [int(part) for part in parts if str(part).strip()]
    if not is_list and given[0] > there:
        raise InputError(f"trainer.devices={number}: torch sees {there} here; give at most {there}")
    if is_list and (len(set(given)) < len(given) or not all(0 <= one < there for one in given)):
        raise InputError(
            f"trainer.devices={number}: torch sees {there} here, from 0 to {there - 1}; give each "
            "once"
        )


def choose_kernels() -> None:
    """Keeps cuDNN's attention out of a run, for all that the process does from now on.

    On recent GPUs torch prefers it in bfloat16. It plans anew for each shape, for a quarter of a
    second and more (docs/benchmarks.md), and prompts and responses have other lengths in each
    rollout. The kernels that are left do the same work.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)

"""Refuses numbers of the command line with which no run can work, before any model is opened."""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from detox_lightning.errors import InputError

LARGEST = 1e12  # of any number with a point; products of larger ones overflow
LARGEST_OF_OPTIMIZERS = 1e6  # no step can be so large


def check_numbers(config: Any) -> None:
    """Refuses what is NaN or infinite, or so large that what is made with it would be.

    Args:
        config: Of a verb.

    Raises:
        InputError: If an option is; it is named.
    """
    for flag, number in numbers(config.items()):
        if not abs(number) <= LARGEST:  # NaN isn't
            flag = flag.replace(".init_args", "")
            raise InputError(
                f"--{flag}={number}: must be a number from {-LARGEST:g} to {LARGEST:g}; where "
                "there should be no bound, leave it out, or give null"
            )


def numbers(named: Any) -> Iterator[tuple[str, float]]:
    """All numbers with a point among values, each with its name.

    Args:
        named: Pairs of names and values; what is within dictionaries and lists is looked at, too.
    """
    for name, value in named:
        if isinstance(value, float):
            yield name, value
        elif isinstance(value, Mapping):
            yield from numbers((f"{name}.{key}", part) for key, part in value.items())
        elif isinstance(value, list | tuple):
            yield from numbers((f"{name}.{place}", part) for place, part in enumerate(value))


def check_options(optimizer: object) -> None:
    """Refuses options of an optimizer that aren't finite, or so large that weights won't be.

    Args:
        optimizer: What a run's flags have made.

    Raises:
        InputError: If one is; or if this is no optimizer.
    """
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"--model.optimizer: this makes a {type(optimizer).__name__}, which is no optimizer"
        )
    for name, value in numbers(options_of(optimizer)):
        if not abs(value) <= LARGEST_OF_OPTIMIZERS or (name == "lr" and value < 0):
            raise InputError(
                f"--model.optimizer.{name}={value}: must be a number up to "
                f"{LARGEST_OF_OPTIMIZERS:g}, and a learning rate not below 0"
            )


def options_of(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """The options of an optimizer's groups, but for their parameters.

    Args:
        optimizer: Of a few parameters.
    """
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "params":
                yield name, float(value) if is_number(value) else value


def is_number(value: Any) -> bool:
    """Whether an option is one number, be it in a tensor."""
    is_single = isinstance(value, torch.Tensor) and value.numel() == 1
    return is_single or (isinstance(value, int) and not isinstance(value, bool))


def refused(error: Exception) -> str | None:
    """The option that an optimizer refused, and its value; None if that can't be told.

    Args:
        error: As its constructor raised it, which tells the value and not the option's name.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "__init__":
            for name, value in frame.f_locals.items():
                values = value if isinstance(value, list | tuple) else [value]
                if any(type(x) in (int, float) and str(x) in str(error) for x in values):
                    return f"{name}={value}"
    return None

"""Refuses numbers with which no run can work, before any model is opened."""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jsonargparse import Namespace
from torch.optim import Optimizer

from detox_lightning.errors import InputError

LARGEST = 1e12  # floats; products of larger ones overflow
LARGEST_OF_OPTIMIZERS = 1e6  # no step can be so large


def leaves(config: Any, flag: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """Walks through all values of a configuration.

    Args:
        config: Namespaces, mappings and lists within each other.
        flag: The configuration's own name.

    Yields:
        A value's flag, the value, the dictionary or list that holds it, and its key there. Classes
        in a list share the list's flag.
    """
    holder = vars(config) if isinstance(config, Namespace) else config
    is_named = isinstance(holder, Mapping)
    for key, value in holder.items() if is_named else enumerate(holder):
        is_silent = key == "init_args" or (not is_named and isinstance(value, Namespace))
        name = flag if is_silent else f"{flag}.{key}".lstrip(".")
        if isinstance(value, Namespace | Mapping | list | tuple):
            yield from leaves(value, name)
        else:
            yield name, value, holder, key


def check_number(flag: str, value: Any) -> None:
    """Raises an InputError for a float that is NaN or infinite, or whose products would be."""
    if isinstance(value, float) and not abs(value) <= LARGEST:  # NaN isn't
        raise InputError(
            f"--{flag}={value}: must be a number from {-LARGEST:g} to {LARGEST:g}; where there "
            "should be no bound, leave it out, or give null"
        )


def check_optimizer(optimizer: object) -> None:
    """Raises an InputError for an optimizer with options that no run can work with."""
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"--model.optimizer: this makes a {type(optimizer).__name__}, which is no optimizer"
        )
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        for name, value, *_ in leaves(options):
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                value = float(value)
            is_number = isinstance(value, int | float)
            is_small = is_number and abs(value) <= LARGEST_OF_OPTIMIZERS  # NaN isn't
            if is_number and (not is_small or (name == "lr" and value < 0)):
                raise InputError(
                    f"--model.optimizer.{name}={value}: must be a number up to "
                    f"{LARGEST_OF_OPTIMIZERS:g}, and a learning rate not below 0"
                )


def refused_option(error: Exception) -> str | None:
    """Returns ``name=value`` of the option that an optimizer refused, if it is known.

    The error tells the value, and not the option's name.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "__init__":
            for name, value in frame.f_locals.items():
                values = value if isinstance(value, list | tuple) else [value]
                if any(type(x) in (int, float) and str(x) in str(error) for x in values):
                    return f"{name}={value}"
    return None

"""Checks of a configuration's numbers, before any model is opened."""

from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace

from detox_lightning.errors import InputError

LARGEST = 1e12  # floats; products of larger ones overflow


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

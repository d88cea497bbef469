"""Takes what Python programs give for a constructor's arguments, or says what to give instead."""

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from detox_lightning.errors import InputError, nearest


def as_name(value: Any, argument: str) -> str:
    """Returns the name of a model, text or a path; InputError for anything else."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise InputError(
        f"{argument}: it must be a name (hub id, folder, file or demo:NAME), and is an object of "
        f"the class {type(value).__name__}; write it with save_pretrained, and give the folder"
    )


def as_options(kind: Any, value: Any, argument: str) -> Any:
    """Returns an object of a class, given as such or as a mapping of options; else InputError."""
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else []
    if isinstance(value, kind):
        return value
    if not (names and isinstance(value, Mapping)):
        example = (kind.__subclasses__() or [kind])[-1].__name__
        given = f"{example}({names[0]}=…)" if names else f"{example}()"
        raise InputError(f"{argument}={value!r:.60}: give an object, such as {given}")
    for name in set(value) - set(names):
        raise InputError(f"{argument}.{name}: there is no such option{nearest(name, names)}")
    return kind(**value)

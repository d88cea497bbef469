"""Configurations that the package brings, for those who have installed it and not its repository.

``--config configs/demo.yaml`` is the file of that name in the working directory; where there is
none, the package's.
"""

import os
import re
import select
import stat
import sys
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from detox_lightning.errors import InputError

FOLDER = "configs"
HELP = (
    "A configuration file in YAML or JSON; each one goes over those before. configs/NAME is the "
    "package's own where there is no such file here."
)


MOST = 1_000_000  # bytes of a configuration
PATIENCE = 3.0  # seconds for somebody to open a pipe


class RecipeAction(ActionConfigFile):
    """``--config``, which also takes the name of a recipe."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Reads the file; see :func:`find_recipe`. What can be read once only is read here."""
        try:
            found = find_recipe(values)
            if values == "-":
                found = bounded(f"--config={values}", sys.stdin.read(MOST + 1))
            elif is_file_name(values) and Path(found).is_fifo():
                found = bounded(f"--config={values}", read_pipe(found).decode("utf8", "replace"))
            super().__call__(parser, cfg, found, option_string)
        except (OSError, ImportError) as error:  # of what fetches addresses
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"--config={values}: can't be read ({reason})") from error


def is_file_name(given: str) -> bool:
    """Whether a configuration is named as a file; not standard input, an address, or YAML itself.

    Args:
        given: What stands after ``--config``.
    """
    return given != "-" and re.search(r"[{\n]|://|: ", given) is None


def read_file(name: str) -> bytes:
    """What is in a configuration that lies on a disk.

    Args:
        name: As it was given.

    Raises:
        InputError: If it is a device or a socket, or too long.
        OSError: If it can't be read.
    """
    path = find_recipe(name)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"--config={name}: this is a device, and no file; give a YAML file")
    with open(path, "rb") as file:
        return bounded(f"--config={name}", file.read(MOST + 1))


def read_pipe(path: str) -> bytes:
    """What somebody writes into a pipe, of which no more than needed is read.

    Args:
        path: Of the pipe.

    Raises:
        OSError: If nobody writes into it.
    """
    read = b""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while len(read) <= MOST:
            comes = select.select([handle], [], [], PATIENCE)[0]
            with suppress(BlockingIOError):  # somebody has it open, and takes a while
                if part := os.read(handle, 65536):
                    read += part
                elif comes:
                    break
                else:
                    raise TimeoutError("nobody writes into this pipe")
    finally:
        os.close(handle)
    return read


Text = TypeVar("Text", str, bytes)


def bounded(origin: str, read: Text) -> Text:
    """What was read, if it isn't too long.

    Args:
        origin: Of what was read, for the message.
        read: Its beginning.

    Raises:
        InputError: If it is.
    """
    if len(read) > MOST:
        raise InputError(
            f"{origin}: it is longer than {MOST} bytes, so no configuration; give a YAML "
            "file of this package's options"
        )
    return read


def find_recipe(name: str) -> str:
    """The file that a configuration's name stands for.

    Args:
        name: A file, ``configs/NAME`` of the package, an address, ``-``, or YAML itself.

    Returns:
        The package's file where there is none of that name here; else what was given, with the
        home folder for ``~``.

    Raises:
        InputError: If there is no such file; says what the package has.
    """
    path = os.path.expanduser(name)
    if not is_file_name(name):
        return name
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    shipped = recipes()
    if file := shipped.get(Path(name).as_posix()):
        return str(file)
    near = get_close_matches(name, shipped, n=1)
    remedy = f"nearest is {near[0]}" if near else f"those are {', '.join(shipped)}"
    raise InputError(
        f"--config={name}: there is no such file here, and no such recipe in the package; {remedy}"
    )


def recipes() -> dict[str, Path]:
    """The package's configurations by name, as ``configs/demo.yaml``."""
    home = recipes_home()
    files = sorted((home / FOLDER).rglob("*.yaml"))
    return {file.relative_to(home).as_posix(): file for file in files}


def recipes_home() -> Path:
    """What ``configs`` is in: the package; its repository, where it is used from there."""
    package = Path(__file__).resolve().parents[1]
    return package if (package / FOLDER).is_dir() else package.parents[1]

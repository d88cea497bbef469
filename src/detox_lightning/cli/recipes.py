"""Finds configurations by name: a file, or a recipe that comes with the package.

``--config configs/demo.yaml`` is the file of that name in the working directory. If there is none,
it is the package's recipe of that name.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from detox_lightning.errors import InputError

FOLDER = "configs"


def is_file_name(value: str) -> bool:
    """Returns whether the value of ``--config`` names a file.

    Args:
        value: A file's name, ``-`` for standard input, an address, or YAML itself.
    """
    return value != "-" and re.search(r"[{\n]|://|: ", value) is None


def find_recipe(name: str) -> str:
    """Finds the file that a configuration's name stands for.

    Args:
        name: The value of ``--config``, see :func:`is_file_name`.

    Returns:
        The name, with ``~`` replaced by the home folder, if there is such a file; else the
        package's recipe of that name.

    Raises:
        InputError: If there is neither.
    """
    if not is_file_name(name):
        return name
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return path
    shipped = recipes()
    if file := shipped.get(Path(name).as_posix()):
        return str(file)
    near = get_close_matches(name, shipped, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"its recipes are {', '.join(shipped)}"
    raise InputError(
        f"--config={name}: there is no such file here, and no such recipe in the package; {remedy}"
    )


def recipes() -> dict[str, Path]:
    """Returns the package's configurations by name, such as ``configs/demo.yaml``."""
    package = Path(__file__).resolve().parents[1]
    # when the package runs from its repository, the recipes are the repository's
    home = package if (package / FOLDER).is_dir() else package.parents[1]
    files = sorted((home / FOLDER).rglob("*.yaml"))
    return {file.relative_to(home).as_posix(): file for file in files}

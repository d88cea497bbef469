"""Configurations that the package brings, for those who have installed it and not its repository.

``--config configs/demo.yaml`` is the file of that name in the working directory; where there is
none, the package's.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from detox_lightning.errors import InputError

FOLDER = "configs"
HELP = (
    "A configuration file in YAML or JSON; each one goes over those before. configs/NAME is the "
    "package's own where there is no such file here."
)


class RecipeAction(ActionConfigFile):
    """``--config``, which also takes the name of a recipe."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Reads the file; see :func:`find_recipe`."""
        try:
            super().__call__(parser, cfg, find_recipe(values), option_string)
        except (OSError, ImportError) as error:  # of what fetches addresses
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"--config={values}: can't be read ({reason})") from error


def is_file_name(given: str) -> bool:
    """Whether a configuration is named as a file; not standard input, an address, or YAML itself.

    Args:
        given: What stands after ``--config``.
    """
    return given != "-" and re.search(r"[{\n]|://|: ", given) is None


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
    package = Path(__file__).resolve().parent
    return package if (package / FOLDER).is_dir() else package.parents[1]

"""How jsonargparse reads what options say, in files and on the command line: never without end."""

import os
import stat
from typing import Any

import yaml
from jsonargparse import Path, get_loader, set_loader  # type: ignore[attr-defined]

from detox_lightning.cli.config_files import check_aliases
from detox_lightning.cli.recipes import MOST, bounded, read_pipe
from detox_lightning.errors import InputError

PLAIN_LOAD, PLAIN_READ = get_loader("yaml"), Path.read_text


def guard() -> None:
    """Puts what is below in the place of what jsonargparse reads files and YAML with."""
    Path.read_text = read_text  # type: ignore[method-assign,assignment]
    set_loader("yaml", load, (yaml.YAMLError,))


def load(text: str) -> Any:
    """Loads YAML, from wherever it comes.

    Args:
        text: Perhaps YAML.

    Raises:
        InputError: If it is a few words and stands for millions.
    """
    check_aliases("YAML that was given", text)
    return PLAIN_LOAD(text)


def read_text(path: Path) -> str:
    """Reads the file that an option names in place of its value, as in ``--model model.yaml``.

    Args:
        path: Of the file, or an address.

    Raises:
        InputError: If it is too long, no text, or a pipe that nobody writes into; or see
            :func:`load`.
    """
    file = os.fspath(path)
    if not os.path.exists(file):  # an address
        return str(PLAIN_READ(path))
    if stat.S_ISFIFO(os.stat(file).st_mode):
        try:
            read = read_pipe(file)
        except OSError as error:
            raise InputError(f"{file}: can't be read ({error})") from error
    else:
        with open(file, "rb") as opened:
            read = opened.read(MOST + 1)
    try:
        text = bounded(file, read).decode("utf8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    check_aliases(file, text)
    return text

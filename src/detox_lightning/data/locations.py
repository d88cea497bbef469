"""Where the rows of a data set lie: on the hub, in the package, in a local folder or file."""

import os
import re
import stat
from pathlib import Path

from detox_lightning.data.read_errors import reading
from detox_lightning.demo import locate
from detox_lightning.errors import InputError

READABLE = ".jsonl, .json and .csv (each also with .gz) and .parquet"
_NAME = re.compile(
    r"(.*)[.](?:(?P<json>jsonl?)|(?P<csv>csv)|(?P<parquet>parquet(?![.]gz)))(?:[.]gz)?", re.DOTALL
)
_IRREGULAR = {
    stat.S_ISDIR: "a folder; give the file in it",
    stat.S_ISFIFO: "a pipe, which can be read only once; write it to a file and give that",
    stat.S_ISSOCK: "a socket; give a file",
    stat.S_ISCHR: "a device; give a file",
    stat.S_ISBLK: "a device; give a file",
}


def find(source: str) -> Path | None:
    """Returns the path that a source names; None if it is a hub id.

    Args:
        source: Hub id, ``demo:NAME``, a folder or a file.

    Raises:
        InputError: If it can only be a path, and nothing is there.
    """
    path = expand(locate(source))
    if "\0" in source:
        raise InputError(f"{source!r}: no path holds a null character; check it")
    with reading(source):
        if path.exists():
            return path
        if path.is_symlink():
            raise InputError(f"{source}: {irregular(path)}")
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or parse(path):
        raise InputError(f"{source}: there is no such file or folder; check the path")
    return None


def expand(name: str) -> Path:
    """Returns the path of a name, in which ``~`` is the home folder, but ``./~`` is not."""
    return Path(os.path.expanduser(name))  # `Path` would take the dot away first


def parse(path: Path) -> tuple[str, str] | None:
    """Returns a file's name without suffix, and ``json``, ``csv`` or ``parquet``; else None."""
    found = _NAME.fullmatch(path.name)
    return (found[1], str(found.lastgroup)) if found else None


def files_of(path: Path) -> dict[str, Path]:
    """Returns the file of each split; a file alone is the split ``train``.

    Args:
        path: A folder or a file.

    Raises:
        InputError: If there are no files, or two for one split.
    """
    if not path.is_dir():
        if parse(path) is None:
            problem = irregular(path) or f"unknown kind of file; readable are {READABLE}"
            raise InputError(f"{path}: {problem}")
        return {"train": path}
    with reading(path):
        found = [(file, parsed) for file in sorted(path.iterdir()) if (parsed := parse(file))]
    files: dict[str, Path] = {}
    for file, (split, _) in found:
        if (other := files.setdefault(split, file)) != file:
            raise InputError(
                f"{path}: {other.name} and {file.name} are both the split {split!r}; remove one of "
                "them"
            )
    if not files:
        raise InputError(
            f"{path}: no data files in this folder; it should hold train.jsonl, validation.jsonl, "
            f"…; readable are {READABLE}"
        )
    return files


def irregular(path: Path) -> str | None:
    """Returns what a path is instead of a file, with the remedy; None if it is one, or nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        if not path.is_symlink():
            return None
        return f"this is a link to {os.readlink(path)}, which leads to no file; mend the link"
    return next((f"this is {what}" for is_it, what in _IRREGULAR.items() if is_it(mode)), None)

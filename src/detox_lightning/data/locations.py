"""Where a source of data lies: on the hub, in the package, in a folder or file of the user's."""

import os
import stat
from pathlib import Path

from detox_lightning.data.read_errors import reading
from detox_lightning.demo import locate
from detox_lightning.errors import InputError

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
READABLE = ".jsonl, .json and .csv (each also with .gz) and .parquet"
OTHERS = {
    stat.S_ISDIR: "a folder; give the file in it",
    stat.S_ISFIFO: "a pipe, which can be read only once; write it to a file and give that",
    stat.S_ISSOCK: "a socket; give a file",
    stat.S_ISCHR: "a device; give a file",
    stat.S_ISBLK: "a device; give a file",
}


def find(source: str) -> Path | None:
    """The path that a source names, or None for a hub id.

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
            raise InputError(f"{source}: {_loose(path)}")
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or parse(path):
        raise InputError(f"{source}: there is no such file or folder; check the path")
    return None


def expand(name: str) -> Path:
    """The path of that name; ``~`` at its beginning is the home folder, but ``./~`` isn't."""
    return Path(os.path.expanduser(name))  # `Path` would take the dot away first


def parse(path: Path) -> tuple[str, str] | None:
    """Name without suffix and kind of a file, or None if the suffix is unknown.

    Args:
        path: A file's, which need not be there.
    """
    name = path.name.removesuffix(".gz")
    for suffix, kind in FORMATS.items():
        zipped_parquet = kind == "parquet" and path.suffix == ".gz"
        if name.endswith(suffix) and not zipped_parquet:
            return name.removesuffix(suffix), kind
    return None


def files_of(path: Path) -> dict[str, Path]:
    """The file of each split; :func:`check_file` says whether it can be read.

    Args:
        path: A folder, or a file.

    Raises:
        InputError: If there are none, or two of one split.
    """
    if not path.is_dir():
        if parse(path) is None:
            what = irregular(path) or f"unknown kind of file; readable are {READABLE}"
            raise InputError(f"{path}: {what}")
        return {"train": path}
    files: dict[str, Path] = {}
    with reading(path):
        found = sorted(path.iterdir())
    for file in found:
        if parsed := parse(file):
            other = files.setdefault(parsed[0], file)
            if other != file:
                raise InputError(
                    f"{path}: {other.name} and {file.name} are both the split {parsed[0]!r}; "
                    "remove one of them"
                )
    if not files:
        raise InputError(
            f"{path}: no data files in this folder; it should hold train.jsonl, validation.jsonl, "
            f"…; readable are {READABLE}"
        )
    return files


def check_file(path: Path) -> None:
    """Makes sure that there is a file, that it may be read, and that something is in it.

    Args:
        path: What should be a file.

    Raises:
        InputError: If not.
    """
    if what := irregular(path):
        raise InputError(f"{path}: {what}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: this file may not be read; change its permissions")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; give one with rows")


def irregular(path: Path) -> str | None:
    """What a path is if it isn't a file, and the remedy; None for a file, or for nothing at all.

    Args:
        path: What should be a file.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return _loose(path) if path.is_symlink() else None
    return next((f"this is {what}" for is_it, what in OTHERS.items() if is_it(mode)), None)


def _loose(path: Path) -> str:
    return f"this is a link to {os.readlink(path)}, which leads to no file; mend the link"

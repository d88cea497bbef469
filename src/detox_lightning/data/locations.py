"""Finds the files of a data set, and words the errors of reading and caching them."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detox_lightning.demo import locate
from detox_lightning.errors import InputError, causes

READABLE = ".jsonl, .json, .csv and .tsv (each also with .gz) and .parquet"
KINDS = {".jsonl": "json", ".json": "json"}
KINDS |= {kind: kind[1:] for kind in (".csv", ".tsv", ".parquet")}
_IRREGULAR = {
    stat.S_ISDIR: "a folder; give the file in it",
    stat.S_ISFIFO: "a pipe, which can be read only once; write it to a file and give that",
    stat.S_ISSOCK: "a socket; give a file",
    stat.S_ISCHR: "a device; give a file",
    stat.S_ISBLK: "a device; give a file",
}
_FULL = {"ENOSPC", "EDQUOT", "EROFS", "EFBIG"}  # the cache's fault even if no file is named
_UNWRITABLE = _FULL | {"EACCES", "EPERM", "ENOTDIR", "EEXIST"}


def find(source: str) -> Path | None:
    """Returns the path that a source names; None if it is a hub id.

    Raises:
        InputError: If it can only be a path, and nothing is there.
    """
    path = expand(locate(source))
    if path.exists():
        return path
    if path.is_symlink():
        raise InputError(f"{source}: {irregular(path)}")
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or parse(path):
        raise InputError(f"{source}: there is no such file or folder; check the path")
    return None


def expand(name: str) -> Path:
    """Returns the path of a name; ``~`` is the home folder, but ``./~`` is not."""
    return Path(os.path.expanduser(name))  # `Path` would drop the dot first


def parse(path: Path) -> tuple[str, str] | None:
    """Returns a file's name without suffix, and its kind: ``json``, ``csv``, …; else None."""
    plain = Path(path.name.removesuffix(".gz"))
    kind = KINDS.get(plain.suffix)
    if kind is None or (kind == "parquet" and path.suffix == ".gz"):
        return None
    return plain.stem, kind


def files_of(path: Path) -> dict[str, Path]:
    """Returns the file of each split in a folder; a file alone is the split ``train``.

    Raises:
        InputError: If there are no files, or two for one split.
    """
    if not path.is_dir():
        if parse(path) is None:
            problem = irregular(path) or f"unknown kind of file; readable are {READABLE}"
            raise InputError(f"{path}: {problem}")
        return {"train": path}
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if (parsed := parse(file)) is None:
            continue
        split, _ = parsed
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
    """Returns what is at a path instead of a file, with the remedy; None for a file or nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        if not path.is_symlink():
            return None
        return f"this is a link to {os.readlink(path)}, which leads to no file; correct the link"
    return next((f"this is {what}" for is_it, what in _IRREGULAR.items() if is_it(mode)), None)


@contextmanager
def caching() -> Iterator[None]:
    """Raises InputError if an error comes from writing the cache of ``datasets``."""
    try:
        yield
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, OSError) and _is_of_cache(cause):
                raise InputError(
                    f"the cache of datasets, {_cache()}, can't be written ({cause.strerror}); make "
                    "room or name another folder in the environment variable HF_DATASETS_CACHE"
                ) from error
        raise


def _cache() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE)


def _is_of_cache(error: OSError) -> bool:
    code, file = errno.errorcode.get(error.errno or 0), error.filename
    if file is None or isinstance(file, int):
        return code in _FULL
    place = Path(os.fsdecode(file)).resolve()
    return code in _UNWRITABLE and place.is_relative_to(_cache().expanduser().resolve())

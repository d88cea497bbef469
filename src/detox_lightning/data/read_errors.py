"""Why a file can't be read, or the cache of ``datasets`` not written, in words that lead there."""

import errno
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detox_lightning.errors import InputError, causes, explain

MAGIC = b"PAR1"  # at both ends of a parquet file
UNWRITABLE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EEXIST", "EFBIG")
    if hasattr(errno, name)
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # where no file is named


def diagnose(path: Path, kind: str, error: Exception) -> str:
    """What is wrong with a file, and the remedy.

    Args:
        path: The file.
        kind: ``json``, ``csv`` or ``parquet``.
        error: As its reader raised it.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            found = _torn(file.read()) if kind == "parquet" else _undecodable(file)
            if kind == "json" and not found:
                file.seek(0)
                found = _unparsable(file.read().decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error, RecursionError):
        found = None
    if found:
        return found
    cause = error.__cause__ or error
    if kind == "json" and type(cause).__name__ == "CastError":  # blocks are read one by one
        return (
            "further on, rows have other columns, or other kinds of values, than in the first 10 "
            "MB; give all rows all columns, with null where there is nothing"
        )
    reason = " ".join(f"{type(cause).__name__}: {cause}".split())
    return f"can't be read as {kind} ({reason}); mend or replace the file"


def _undecodable(lines: Iterable[bytes]) -> str | None:
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"line {number} isn't UTF-8; convert the file"
    return None


def _unparsable(text: str) -> str | None:
    """Names the first line that isn't what the first one promises: a list, or objects."""
    if text.lstrip().startswith("["):
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            return (
                f"line {error.lineno} isn't JSON ({error.msg}); give a list of objects, or one "
                "object on each line"
            )
        return None
    for number, line in enumerate(text.split("\n"), 1):
        try:
            is_object = not line.strip() or isinstance(json.loads(line), dict)
        except ValueError:
            is_object = False
        if not is_object:
            return f"line {number} isn't a JSON object: {line[:40]!r}; give one on each line"
    return None


def _torn(content: bytes) -> str | None:
    if content.startswith(MAGIC) and content.endswith(MAGIC):
        return None
    return "isn't parquet, or not all of it; mend or replace the file"


@contextmanager
def caching() -> Iterator[None]:
    """Says in one line that the cache can't be written, if so.

    Raises:
        InputError: In place of what the system said.
    """
    try:
        yield
    except OSError as error:
        if trouble := cache_trouble(error):
            raise trouble from error
        raise


def cache_trouble(error: BaseException | None) -> InputError | None:
    """What to raise if an error, or a cause of it, comes from writing the cache of ``datasets``.

    Args:
        error: As ``datasets`` raised it.
    """
    from datasets import config

    for cause in causes(error):
        if isinstance(cause, OSError) and _is_of(cause, Path(config.HF_DATASETS_CACHE)):
            return InputError(
                f"the cache of datasets, {config.HF_DATASETS_CACHE}, can't be written "
                f"({cause.strerror}); make room or name another folder in the environment "
                "variable HF_DATASETS_CACHE"
            )
    return None


def _is_of(error: OSError, cache: Path) -> bool:
    """Whether it says that this folder can't be written, rather than another one."""
    if error.filename is None:
        return error.errno in FULL
    place = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else Path()
    home = cache.expanduser().resolve()
    return error.errno in UNWRITABLE and place.resolve().is_relative_to(home)


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Says in one line why the system doesn't let a file or folder of the user's be read.

    Args:
        source: Its path, or what names it.

    Raises:
        InputError: In place of what the system said.
    """
    try:
        yield
    except OSError as error:
        if reason := explain(error, source):
            raise InputError(reason) from error
        raise

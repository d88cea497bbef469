"""Why files can't be read, or the cache of ``datasets`` can't be written, in one line each."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detox_lightning.errors import InputError, causes, explain

FULL = {"ENOSPC", "EDQUOT", "EROFS", "EFBIG"}  # the cache's fault even if no file is named
UNWRITABLE = FULL | {"EACCES", "EPERM", "ENOTDIR", "EEXIST"}


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Raises InputError if the system refuses to read the user's file or folder ``source``."""
    try:
        yield
    except OSError as error:
        if reason := explain(error, source):
            raise InputError(reason) from error
        raise


@contextmanager
def caching() -> Iterator[None]:
    """Raises InputError if the system refuses to write the cache of ``datasets``."""
    try:
        yield
    except OSError as error:
        if trouble := cache_trouble(error):
            raise trouble from error
        raise


def cache_trouble(error: BaseException) -> InputError | None:
    """Returns what to raise if an error comes from writing the cache of ``datasets``; else None."""
    from datasets import config

    cache = Path(config.HF_DATASETS_CACHE).expanduser().resolve()
    for cause in causes(error):
        if isinstance(cause, OSError) and _is_of_cache(cause, cache):
            return InputError(
                f"the cache of datasets, {config.HF_DATASETS_CACHE}, can't be written "
                f"({cause.strerror}); make room or name another folder in the environment "
                "variable HF_DATASETS_CACHE"
            )
    return None


def _is_of_cache(error: OSError, cache: Path) -> bool:
    code = errno.errorcode.get(error.errno or 0)
    if error.filename is None or isinstance(error.filename, int):
        return code in FULL
    return code in UNWRITABLE and Path(os.fsdecode(error.filename)).resolve().is_relative_to(cache)

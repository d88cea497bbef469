"""Folders that appear when they are complete, where nothing is in the way."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detox_lightning.errors import InputError


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Lets a block fill a folder, which appears under its name at the block's end.

    Args:
        folder: Where to, nothing or an empty folder as yet.

    Yields:
        The folder to fill, beside it. What is left of an earlier, broken one is removed.

    Raises:
        InputError: If there is something in the folder.
    """
    refuse_full(folder, str(folder))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


def refuse_full(folder: Path, name: str) -> None:
    """Makes sure that nothing would be overwritten.

    Args:
        folder: Where something is to be written.
        name: The flag and its value, or the folder: for the message.

    Raises:
        InputError: If there is something.
    """
    if holds_something(folder):
        raise InputError(
            f"{name}: there is something in it already, which would be overwritten. "
            "Give another folder, or move this one away."
        )


def free(folder: Path) -> Path:
    """The folder itself, or with the first number at which nothing is in the way."""
    candidate, number = folder, 1
    while holds_something(candidate):
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def holds_something(folder: Path) -> bool:
    """Whether there is a file, or a folder that isn't empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))

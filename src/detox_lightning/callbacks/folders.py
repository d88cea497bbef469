"""Where files go: a run's folder, folders that appear when complete, names not yet taken."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer

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


def refuse_unwritable(folder: Path, name: str) -> None:
    """Makes sure that something can be written into a folder, and makes it if it isn't there.

    Args:
        folder: Where something is to be written.
        name: The flag and its value: for the message.

    Raises:
        InputError: If it can't.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: nothing can be written into {folder} ({error.strerror}); give another folder"
        ) from error


def free(folder: Path) -> Path:
    """The folder or file itself, or with the first number at which nothing is in the way."""
    candidate, number = folder, 1
    while holds_something(candidate):
        name = f"{folder.stem}-{number}{folder.suffix}"
        candidate, number = folder.with_name(name), number + 1
    return candidate


def holds_something(folder: Path) -> bool:
    """Whether there is a file, or a folder that isn't empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def run_folder(trainer: Trainer, checkpoint: str | Path | None) -> Path:
    """The folder of the run that made a checkpoint, else the present run's.

    Args:
        trainer: All processes must ask, as the loggers' folder is agreed on between them.
        checkpoint: The file; None for the present run.
    """
    if not checkpoint:
        return log_folder(trainer)
    folder = Path(checkpoint).parent
    return folder.parent if folder.name == "checkpoints" else folder


def log_folder(trainer: Trainer) -> Path:
    """The run's folder, with whatever logger: the one that ``ModelCheckpoint`` takes.

    Args:
        trainer: All processes must ask, as they agree on the first one's.
    """
    folder = Path(trainer.default_root_dir)
    if logger := trainer.logger:
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or folder, str(logger.name), version)
    return Path(trainer.strategy.broadcast(str(folder)))

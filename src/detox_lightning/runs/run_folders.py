"""Where files go: a run's folder, folders that appear when complete, names not yet taken."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from socket import gethostname

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError, TrainingError, writing


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Lets a block fill a folder, which appears under its name at the block's end.

    Args:
        folder: Where to, nothing or an empty folder as yet. If another process fills it meanwhile,
            this one's gets a number.

    Yields:
        The folder to fill, beside it, of this process alone. What processes that are no more have
        left of theirs is removed.

    Raises:
        InputError: If there is something in the folder.
        TrainingError: If the disk is full, or what was filled can't get its name: that stays, under
            another.
    """
    refuse_full(folder, str(folder))
    remove_abandoned(folder)
    partial = folder.with_name(f".{folder.name}.{gethostname()}-{os.getpid()}.partial")
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    let_read(partial)
    settle(partial, folder)


def settle(partial: Path, folder: Path) -> None:
    """Gives a folder that is complete its name; it is removed no more.

    Args:
        partial: What it is called as yet.
        folder: What it shall be called; with a number if that is filled meanwhile.

    Raises:
        TrainingError: If it can't be called so; says where it is.
    """
    here = partial
    try:
        here = here.rename(free(partial.with_suffix(".complete")))  # no more an abandoned one
        place = filled_meanwhile(folder, str(folder))
        if place.exists():
            place.rmdir()
        here.rename(place)
    except OSError as error:
        raise TrainingError(
            f"{folder}: can't be written ({error.strerror or error}); all that was to be in it is "
            f"in {here}: move it"
        ) from error


def remove_abandoned(folder: Path) -> None:
    """Removes what processes of this machine that are no more have left of a folder.

    Args:
        folder: What was to be written.
    """
    for partial in folder.parent.glob(f".{escape(folder.name)}.{escape(gethostname())}-*.partial"):
        process = partial.name.removesuffix(".partial").rpartition("-")[2]
        if process.isdecimal() and not is_running(int(process)):
            shutil.rmtree(partial, ignore_errors=True)


def is_running(process: int) -> bool:
    """Whether another process of this machine is still there.

    Args:
        process: Its id; this one's own is no other's.
    """
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def let_read(folder: Path) -> None:
    """Gives files the rights of any new file: safetensors keeps its own to their owner.

    Args:
        folder: Which was made with the usual rights.
    """
    rights = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            with suppress(OSError):  # some disks have no rights
                file.chmod(rights)


def filled_meanwhile(folder: Path, name: str) -> Path:
    """A folder that was empty when it was looked at; with a number, and a warning, if it isn't now.

    So what took hours is not lost.

    Args:
        folder: Where something is to be written.
        name: The flag and its value, or the folder: for the warning.
    """
    place = free(folder)
    if place != folder:
        rank_zero_warn(f"{name} was filled by something else meanwhile; writing to {place}")
    return place


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


def refuse_unwritable(folder: Path, name: str, makes: bool = True) -> None:
    """Makes sure that something can be written into a folder.

    Args:
        folder: Where something is to be written.
        name: The flag and its value: for the message.
        makes: Whether it is made if it isn't there; else the folder that it would be in is looked
            at.

    Raises:
        InputError: If it can't.
    """
    try:
        if makes:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = next(place for place in (folder, *folder.absolute().parents) if place.exists())
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


def log_folders(trainer: Trainer) -> list[Path]:
    """The folders of this machine that loggers write a run's files into.

    Args:
        trainer: With its loggers.
    """
    known = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger | CSVLogger)]
    return [Path(x.log_dir) for x in known if "://" not in str(x.log_dir)]

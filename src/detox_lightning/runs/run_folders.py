"""Where a run's files go, and how a file or folder gets its name only when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from itertools import count, takewhile
from pathlib import Path
from socket import gethostname

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError, TrainingError, writing

CHECKPOINTS = "checkpoints"  # name of the folder of checkpoints in a run's folder
PARTIAL = ".partial"  # suffix of a file or folder that is still being written


FolderLogger = TensorBoardLogger | CSVLogger  # the loggers that write into folders


def log_folder(trainer: Trainer) -> Path:
    """Returns the run's folder, the same as ``ModelCheckpoint``'s; a collective operation."""
    folder = Path(trainer.default_root_dir)
    if logger := trainer.logger:
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or folder, str(logger.name), version)
    return Path(trainer.strategy.broadcast(str(folder)))


def run_folder(trainer: Trainer, checkpoint: str | Path | None) -> Path:
    """Returns the folder of the run that wrote ``checkpoint``; None: of this run (collective)."""
    if not checkpoint or "://" in str(checkpoint):
        return log_folder(trainer)
    return folder_of(Path(checkpoint))


def folder_of(checkpoint: Path) -> Path:
    """Returns the folder of the run that wrote a checkpoint; also takes one of these folders."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


# -- existing files and folders


def is_occupied(path: Path) -> bool:
    """Whether there is a file, or a folder that isn't empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def next_free_path(path: Path, promised_as: str = "") -> Path:
    """Returns ``path``, or ``path-1``, ``path-2``, … if it is occupied.

    Args:
        path: A file or a folder.
        promised_as: The flag and value by which the user chose ``path``, which was free at that
            time. If ``path`` is occupied by now, a warning names them, and no work is lost.
    """
    candidate = next(x for x in _numbered(path) if not is_occupied(x))
    if promised_as and candidate != path:
        rank_zero_warn(
            f"{promised_as} was filled by another program meanwhile; writing to {candidate}"
        )
    return candidate


def newest_path(path: Path) -> Path:
    """Returns the last of ``path``, ``path-1``, ``path-2``, … that is occupied; else ``path``."""
    return [path, *takewhile(is_occupied, _numbered(path))][-1]


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))


def output_folder(flag: str, chosen: str | None, default: Path) -> Path:
    """Returns the folder to write results into, which is always an empty or a new one.

    Args:
        flag: The flag that chooses the folder: ``report.folder``.
        chosen: The flag's value; None for the default.
        default: The default folder; it gets a number if it is occupied.
    """
    if chosen is None:
        return next_free_path(default)
    return next_free_path(Path(chosen), f"{flag}={chosen}")


def refuse_occupied(folder: Path, name: str) -> None:
    """Raises an InputError if a folder is not empty, as its content would be overwritten.

    Args:
        folder: The folder to write into.
        name: The flag and its value, or the folder, for the message.
    """
    if is_occupied(folder):
        raise InputError(
            f"{name}: there is something in it already, which would be overwritten. "
            "Give another folder, or move this one away."
        )


def refuse_unwritable(folder: Path, name: str) -> None:
    """Raises an InputError if no file can be created in a folder, or in its nearest parent.

    Args:
        folder: The folder to write into.
        name: The flag and its value, for the message.
    """
    try:
        folder = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: nothing can be written into {folder} ({error.strerror}); give another folder"
        ) from error


# -- files and folders that get their names when they are complete


def partial_of(path: Path) -> Path:
    """Returns the hidden name under which this process writes a file or folder."""
    return path.with_name(f".{path.name}.{gethostname()}-{os.getpid()}{PARTIAL}")


def writer_runs(partial: Path) -> bool | None:
    """Whether the process that writes ``partial`` still runs; None if it is on another machine."""
    host, _, process = partial.name.removesuffix(PARTIAL).rpartition("-")
    if not host.endswith(f".{gethostname()}") or not process.isdecimal():
        return None
    if int(process) == os.getpid():  # this process writes nothing else now
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Lets a block write a hidden file, which replaces ``file`` when the block is done."""
    partial = partial_of(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)  # it may be a link that leads elsewhere
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Lets a block fill a hidden folder, which gets the name ``folder`` when the block is done.

    Args:
        folder: A missing or empty folder. If another program fills it meanwhile, the new one gets
            a number.

    Yields:
        The hidden folder. Those that dead processes of this machine have left are removed.

    Raises:
        InputError: If the folder is not empty.
        TrainingError: If the disk is full, or if the complete folder can't be renamed; the message
            then says where it is.
    """
    refuse_occupied(folder, str(folder))
    for left in folder.parent.glob(f".{escape(folder.name)}.{escape(gethostname())}-*{PARTIAL}"):
        if writer_runs(left) is False:
            shutil.rmtree(left, ignore_errors=True)
    partial = partial_of(folder)
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _share(partial)
    _publish(partial, folder)


def _share(folder: Path) -> None:
    """Gives files the usual permissions: safetensors lets only their owner read them."""
    permissions = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            with suppress(OSError):  # some file systems have no permissions
                file.chmod(permissions)


def _publish(partial: Path, folder: Path) -> None:
    """Renames a complete folder, first to a name that no process takes for an abandoned one."""
    here = partial
    try:
        here = here.rename(next_free_path(partial.with_suffix(".complete")))
        place = next_free_path(folder, promised_as=str(folder))
        if place.exists():
            place.rmdir()
        here.rename(place)
    except OSError as error:
        raise TrainingError(
            f"{folder}: can't be written ({error.strerror or error}); its whole content is in "
            f"{here}: move it"
        ) from error

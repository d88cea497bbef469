"""How checkpoints get onto the disk, and whether one that is there is whole."""

import contextlib
import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from detox_lightning.errors import InputError, TrainingError

PARTIAL = ".partial"  # ends the name of what is still being written
TORN = ".torn"  # ends the name of what was set aside
LAST, PREVIOUS = "last", "previous"


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole under their names, whenever the power fails.

    What is written gets a hidden name, goes to the disk, and is then renamed. A ``last.ckpt`` that
    is replaced stays beside it as ``previous.ckpt``. Places with an address (``s3://…``) are left
    to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: Tensors and plain values.
            path: The file.
            storage_options: For Lightning, of places with an address.

        Raises:
            TrainingError: If it can't be written; what was there before is untouched.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        partial = partial_of(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if file.name.startswith(LAST):
                keep_previous(file)
            partial.replace(file)
            sync(file.parent)
        except (OSError, RuntimeError) as error:  # torch turns the one into the other
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            reason = str(error.__context__ or error).splitlines()[0]
            raise TrainingError(
                f"the checkpoint {file} could not be written ({reason}). The one before it is "
                "whole: make room, then go on with --ckpt_path last"
            ) from error


def partial_of(file: Path) -> Path:
    """The name under which a file is written."""
    return file.with_name(f".{file.name}{PARTIAL}")


def previous_of(last: Path) -> Path:
    """The name of the file that ``last.ckpt`` was before."""
    return last.with_name(last.name.replace(LAST, PREVIOUS, 1))


def last_of(file: Path) -> Path:
    """The ``last.ckpt`` of the run that another checkpoint is of."""
    is_previous = file.name.startswith(PREVIOUS)
    return file.with_name(file.name.replace(PREVIOUS, LAST, 1) if is_previous else f"{LAST}.ckpt")


def keep_previous(last: Path) -> None:
    """Gives ``last.ckpt`` a second name, which stays when it is replaced."""
    if not last.is_file() or last.is_symlink():
        return
    link, previous = partial_of(previous_of(last)), previous_of(last)
    link.unlink(missing_ok=True)
    try:
        os.link(last, link)
    except OSError:  # a file system without hard links
        link = last
    link.replace(previous)


def sync(folder: Path) -> None:
    """Sends a folder's names to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_whole(file: Path) -> bool:
    """Whether a file is a checkpoint all of whose bytes are those that were written."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # a torn file fails in many ways
        return False


def clean(folder: Path) -> None:
    """Removes what a run that was killed left half written."""
    for partial in folder.glob(f".*.ckpt{PARTIAL}"):
        partial.unlink(missing_ok=True)


def set_torn_aside(last: Path) -> None:
    """Renames a torn ``last.ckpt``, so that it is never kept in the place of the one before it."""
    if last.is_file() and not is_whole(last):
        last.replace(last.with_name(last.name + TORN))


def opened(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, its tensors left on the disk."""
    loaded: dict[str, Any] = torch.load(
        checkpoint, map_location="cpu", weights_only=True, mmap=True
    )
    return loaded


def check_opens(name: str) -> None:
    """Refuses a file that torch wrote, and that is no checkpoint.

    Args:
        name: The file.

    Raises:
        InputError: If it is not of Lightning, or holds what could run code.
    """
    try:
        checkpoint: Any = opened(Path(name))
    except UnpicklingError as error:
        raise InputError(
            f"--ckpt_path {name}: it holds more than tensors and plain values, and opening such a "
            "file can run code; give one that this package wrote"
        ) from error
    except (OSError, RuntimeError) as error:  # in the words of torch's own reader of archives
        raise InputError(f"--ckpt_path {name}: this is no checkpoint, or a torn one") from error
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise InputError(
            f"--ckpt_path {name}: this was not written by Lightning; give a file that a run has "
            "left in its checkpoints/, or last"
        )

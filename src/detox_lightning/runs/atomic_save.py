"""Writes checkpoints so that a crash never leaves half a file under a checkpoint's name."""

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import TrainingError, causes
from detox_lightning.runs.foreign_paths import is_inside
from detox_lightning.runs.run_folders import PARTIAL, atomic_file, writer_runs

DAMAGED = ".damaged"  # suffix of a damaged checkpoint that was set aside
LAST, PREVIOUS = "last", "previous"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a hidden file, flushes it to the disk, then gives it its name.

    The ``last.ckpt`` that it replaces stays beside it as ``previous.ckpt``. It removes only files
    that it has written and files in the run's folders of checkpoints. Lightning handles addresses
    (``s3://…``).

    Args:
        folders: Returns the folders in which the run's callbacks keep checkpoints. It is called
            late, because callbacks know their folders only after their ``setup``.
    """

    def __init__(self, folders: Callable[[], Sequence[str]] = tuple):
        super().__init__()
        self.folders = folders
        self.written: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint.

        Raises:
            TrainingError: If it can't be written; an existing file of that name stays.
        """
        self.written.add(str(path))
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        self._refuse_links_elsewhere(file)
        try:
            with atomic_file(file) as partial:
                with partial.open("xb") as stream:
                    torch.save(checkpoint, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                if file.name.startswith(LAST):
                    _keep_as_previous(file)
            _sync_folder(file.parent)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
            raise TrainingError(_not_written(file, error)) from error

    def _refuse_links_elsewhere(self, file: Path) -> None:
        """Refuses a path inside a folder of checkpoints that a link leads out of that folder."""
        for folder in self.folders():
            is_meant_inside = Path(folder).absolute() in file.absolute().parents
            if is_meant_inside and not is_inside(file.parent / "it", folder):
                raise TrainingError(
                    f"the checkpoint {file} is not written: a link leads out of {folder}; remove it"
                )

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint file of this run; other files stay, with a warning."""
        is_ours = str(path) in self.written or any(is_inside(path, x) for x in self.folders())
        if not is_ours:
            rank_zero_warn(f"{path} is not removed: it is in none of this run's folders")
        elif "://" in str(path):
            super().remove_checkpoint(path)
        elif not Path(path).is_dir() or Path(path).is_symlink():
            Path(path).unlink(missing_ok=True)


def _not_written(file: Path, error: BaseException) -> str:
    """Returns the message: the system's reason, which torch hides, and where to resume."""
    numbers = [x.errno for x in causes(error) if isinstance(x, OSError) and x.errno]
    reason = str(OSError(numbers[0], os.strerror(numbers[0]))) if numbers else str(error)
    last = last_of(file)
    intact = next((x for x in (last, previous_of(last)) if is_whole(x)), None)
    remedy = (
        "there is no earlier one; make room, then start again"
        if intact is None
        else f"the earlier one, {intact}, is intact; make room, then resume with --ckpt_path last"
    )
    return f"the checkpoint {file} could not be written ({reason.splitlines()[0]}): {remedy}"


def previous_of(last: Path) -> Path:
    """Returns the file that keeps the former ``last.ckpt``: ``previous.ckpt``."""
    return last.with_name(last.name.replace(LAST, PREVIOUS, 1))


def last_of(file: Path) -> Path:
    """Returns the ``last.ckpt`` of the run that wrote another checkpoint in the same folder."""
    is_previous = file.name.startswith(PREVIOUS)
    return file.with_name(file.name.replace(PREVIOUS, LAST, 1) if is_previous else f"{LAST}.ckpt")


def _keep_as_previous(last: Path) -> None:
    """Links ``previous.ckpt`` to the present ``last.ckpt``, which is about to be replaced."""
    if not last.is_file() or last.is_symlink():
        return
    try:
        with atomic_file(previous_of(last)) as link:
            os.link(last, link)
    except OSError:  # a file system without hard links
        last.replace(previous_of(last))


def _sync_folder(folder: Path) -> None:
    """Flushes a folder's list of names to the disk, where the system can do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_whole(file: Path) -> bool:
    """Whether a file is a checkpoint with correct checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive fails in many ways
        return False


def remove_partial_checkpoints(folder: Path) -> None:
    """Removes hidden files that killed runs have left in a folder of checkpoints."""
    for partial in folder.glob(f".*.ckpt*{PARTIAL}"):
        if not writer_runs(partial):
            partial.unlink(missing_ok=True)


def set_damaged_aside(last: Path) -> None:
    """Renames a damaged ``last.ckpt``, so that it never becomes ``previous.ckpt``."""
    if last.is_file() and not is_whole(last):
        last.replace(last.with_name(last.name + DAMAGED))

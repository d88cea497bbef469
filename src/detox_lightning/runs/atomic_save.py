"""How checkpoints get onto the disk and off it, and whether one that is there is whole."""

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import gethostname
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import TrainingError, causes
from detox_lightning.runs.foreign_paths import is_inside
from detox_lightning.runs.run_folders import is_running

PARTIAL = ".partial"  # ends the name of what is still being written
TORN = ".torn"  # ends the name of what was set aside
LAST, PREVIOUS = "last", "previous"


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole under their names, whenever the power fails.

    What is written gets a hidden name, goes to the disk, and is then renamed. A ``last.ckpt`` that
    is replaced stays beside it as ``previous.ckpt``. Nothing is removed but what this has written
    and files in the folders of checkpoints. Places with an address (``s3://…``) are written by
    Lightning.
    """

    def __init__(self, folders: Callable[[], Sequence[str]] = tuple):
        """Notes who knows where checkpoints are.

        Args:
            folders: Gives those of the run's callbacks, which may not be set up yet.
        """
        super().__init__()
        self.folders = folders
        self.written: set[str] = set()

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
        self.written.add(str(path))
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        self.refuse_way_out(file)
        partial = partial_of(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)  # perhaps a link that leads elsewhere
            with partial.open("xb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if file.name.startswith(LAST):
                keep_previous(file)
            partial.replace(file)
            sync(file.parent)
        except (OSError, RuntimeError) as error:  # torch turns the one into the other
            raise TrainingError(f"{not_written(file, error)}: {what_remains(file)}") from error
        finally:
            if os.path.lexists(partial):
                partial.unlink(missing_ok=True)

    def refuse_way_out(self, file: Path) -> None:
        """Refuses a file that seems to be in a folder of checkpoints, and by a link isn't.

        Raises:
            TrainingError: If it is one.
        """
        for folder in self.folders():
            if Path(folder).absolute() in file.absolute().parents and not is_inside(
                file.parent / "it", folder
            ):
                raise TrainingError(
                    f"the checkpoint {file} is not written: a link leads out of {folder}; remove it"
                )

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint, and nothing that is none.

        Args:
            path: The file.
        """
        is_ours = str(path) in self.written or any(is_inside(path, x) for x in self.folders())
        if not is_ours:
            rank_zero_warn(f"{path} is not removed: it is in none of this run's folders")
        elif "://" in str(path):
            super().remove_checkpoint(path)
        elif not Path(path).is_dir() or Path(path).is_symlink():
            Path(path).unlink(missing_ok=True)


def not_written(file: Path, error: BaseException) -> str:
    """Says that a checkpoint could not be written, and what the system says is the reason.

    Args:
        file: The checkpoint.
        error: As torch raised it, which has words of its own for a full disk.
    """
    numbers = [x.errno for x in causes(error) if isinstance(x, OSError) and x.errno]
    reason = str(OSError(numbers[0], os.strerror(numbers[0]))) if numbers else str(error)
    return f"the checkpoint {file} could not be written ({reason.splitlines()[0]})"


def what_remains(file: Path) -> str:
    """Says whether there is a checkpoint to go on from, where one could not be written.

    Args:
        file: What should have been written.
    """
    before = next((x for x in (last_of(file), previous_of(last_of(file))) if is_whole(x)), None)
    if before is None:
        return "there is none before it; make room, then begin anew"
    return f"the one before it, {before}, is whole; make room, then go on with --ckpt_path last"


def partial_of(file: Path) -> Path:
    """The name under which this process writes a file."""
    return file.with_name(f".{file.name}.{gethostname()}-{os.getpid()}{PARTIAL}")


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
    """Removes what a run that was killed left half written; not what is being written."""
    for partial in folder.glob(f".*.ckpt*{PARTIAL}"):
        host, _, process = (
            partial.name.removesuffix(PARTIAL).rpartition(".ckpt.")[2].rpartition("-")
        )
        if not (host == gethostname() and process.isdecimal() and is_running(int(process))):
            partial.unlink(missing_ok=True)


def set_torn_aside(last: Path) -> None:
    """Renames a torn ``last.ckpt``, so that it is never kept in the place of the one before it."""
    if last.is_file() and not is_whole(last):
        last.replace(last.with_name(last.name + TORN))

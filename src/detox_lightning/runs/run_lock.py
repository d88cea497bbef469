"""Locks on folders, by which other processes see that a run is active."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, lockf
except ImportError:  # on Windows there are no locks
    lockf = None  # type: ignore[assignment]

LOCK = ".lock"


class FolderLocks:
    """The locks of a run's folders; they last until :meth:`release` or the process's end.

    On a disk that does not support locks, folders always seem to be free.
    """

    def __init__(self) -> None:
        self.handles: dict[Path, int] = {}  # by file

    def acquire(self, folders: Iterable[Path]) -> Path | None:
        """Locks folders, which are created if they are missing.

        Returns:
            The first folder that another process has locked; this process then locks none of them.
            None if all are locked here.
        """
        for folder in folders if lockf is not None else ():
            file = folder.resolve() / LOCK
            if file in self.handles:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                lockf(handle, LOCK_EX | LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(handle)
                self.release()
                return folder
            except OSError as error:  # a file system without locks
                rank_zero_warn(
                    f"{folder}: this disk has no locks ({error.strerror}), so other processes "
                    "can't see that a run is active there: don't start a second one in it"
                )
            self.handles[file] = handle
        return None

    def release(self) -> None:
        """Unlocks all folders."""
        while self.handles:
            file, handle = self.handles.popitem()
            with suppress(OSError):
                file.unlink(missing_ok=True)
            os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a run in another process has locked a folder."""
    if lockf is None:
        return False
    with suppress(OSError), (folder / LOCK).open("rb") as file:  # or there is no lock
        try:
            lockf(file, LOCK_SH | LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False

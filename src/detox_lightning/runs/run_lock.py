"""Locks on folders by which other processes see that a run is alive."""

import os
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, lockf
except ImportError:  # Windows: goes without
    lockf = None  # type: ignore[assignment]

LOCK = ".lock"


class FolderLock:
    """The lock of one folder, which ends with :meth:`release` or with the process, however it ends.

    On a disk without locks it always seems to be free.
    """

    def __init__(self) -> None:
        self.file: Path | None = None
        self.handle: int | None = None

    def acquire(self, folder: Path) -> bool:
        """Locks a folder, which is created if it is missing.

        Returns:
            False if another process has locked it.
        """
        if self.handle is not None or lockf is None:
            return True
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lockf(handle, LOCK_EX | LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            return False
        except OSError as error:  # a file system without locks
            rank_zero_warn(
                f"{folder}: this disk has no locks ({error.strerror}), so nobody is told that a "
                "run is alive there: start no second one in it"
            )
        self.file, self.handle = folder / LOCK, handle
        return True

    def release(self) -> None:
        """Unlocks the folder, if it is locked."""
        if self.file is not None and self.handle is not None:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)
            os.close(self.handle)
        self.file = self.handle = None


def is_locked(folder: Path) -> bool:
    """Whether a run in another process has locked a folder."""
    if lockf is None:
        return False
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        lockf(handle, LOCK_SH | LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False

"""Places where nothing can be written, and disks that are full."""

import errno
import os
import socket
import ssl
from pathlib import Path

import pytest

from bad_input.cases import Case, Place, check
from detox_lightning.errors import TrainingError, explain, writing
from detox_lightning.runs.run_folders import atomic_folder


def full(place: Place) -> None:
    (place.folder / "full").mkdir()
    (place.folder / "full" / "mine").write_text("mine")


CASES = [
    Case(
        "an export folder with other things in it",
        ("--export.folder={folder}/full",),
        "export.folder={folder}/full: there is something in it already, which would be "
        "overwritten. Give another folder, or move this one away.",
        full,
    ),
    Case(
        "predictions that are there already",
        ("--predictions.file={folder}/full/mine",),
        "predictions.file={folder}/full/mine exists: name a new file, remove it, or add to it with "
        "predictions.append=true",
        full,
        verb="predict",
    ),
    Case(
        "a report in a file",
        ("--report.folder={folder}/tiny.yaml/report",),
        "report.folder={folder}/tiny.yaml/report: nothing can be written into {folder}/tiny.yaml "
        "(Not a directory); give another folder",
        verb="test",
    ),
    Case(
        "runs in a file",
        ("--trainer.logger.save_dir={folder}/tiny.yaml",),
        "trainer.logger.save_dir: {folder}/tiny.yaml/tiny/version_0: Not a directory; a part of "
        "the path is a file, not a folder; choose another path",
    ),
]


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_places_that_can_t_be_written(case: Case, place: Place) -> None:
    check(case, place)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "x: No space left on device; make room, or choose a path on another disk"),
        (errno.EROFS, "x: Read-only file system; choose a path on another disk"),
        (
            errno.EACCES,
            "x: Permission denied; choose a path that you may read and write, or ask for "
            "permission",
        ),
    ],
)
def test_what_the_system_refuses_is_a_line(number: int, line: str) -> None:
    assert explain(OSError(number, os.strerror(number), "x")) == line
    assert explain(RuntimeError(f"I/O error: … (os error {number})"), "x") == line
    with pytest.raises(TrainingError) as raised, writing("x"):
        raise OSError(number, os.strerror(number))
    assert str(raised.value) == f"can't write {line}"


def test_other_errors_are_not_the_system_s() -> None:
    assert explain(ValueError("ours")) is None
    assert explain(ssl.SSLError(1, "certificate verify failed"), "x") is None
    assert explain(socket.gaierror(8, "unknown host"), "x") is None
    assert explain(OSError(0, "closed"), "x") is None
    assert explain(OSError(-2, "unknown host"), "x") is None
    assert explain(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None
    assert explain(PermissionError(errno.EACCES, "denied")) is None
    full = "No space left on device; make room, or choose a path on another disk"
    assert explain(OSError(errno.ENOSPC, "full")) == full
    with pytest.raises(ValueError, match="ours"), writing("x"):
        raise ValueError("ours")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"

    def fill() -> None:
        with atomic_folder(folder) as partial:
            (partial / "half").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(TrainingError) as raised:
        fill()
    assert str(raised.value) == (
        f"can't write {folder}: No space left on device; make room, or choose a path on another "
        "disk"
    )
    assert list(tmp_path.iterdir()) == []

"""No run writes into the folder of one that is alive; a dead one's is no obstacle."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from command import run, tiny_recipe
from detox_lightning.runs import run_lock
from detox_lightning.runs.run_lock import FolderLocks
from test_finding import held

PLACES = "(checkpoint.dirpath, trainer.logger.version, trainer.logger.save_dir)"
CSV = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs")
ONE = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1")


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.chdir(tmp_path)
    return tiny_recipe(tmp_path, tiny_t5, tiny_classifier)


FOLDERS = [
    ("{root}/runs/tiny/version_0", ("--trainer.logger.version=0",)),
    ("{root}/runs/tiny/mine", ("--trainer.logger.version=mine", "--checkpoint.dirpath=other")),
    ("{root}/kept", ("--checkpoint.dirpath=kept",)),
    ("{root}/checkpoints", ("--trainer.logger=false",)),
    ("logs/x/version_0", (*CSV, "--trainer.logger.name=x", "--trainer.logger.version=0")),
]


@pytest.mark.quick(2)
@pytest.mark.parametrize(("folder", "words"), FOLDERS)
def test_a_live_run_s_folder_is_no_other_s(
    folder: str, words: tuple[str, ...], recipe: str, tmp_path: Path
) -> None:
    folder = folder.format(root=tmp_path)
    with held(Path(folder)):
        outcome = run("fit", "--config", recipe, *ONE, *words)
        assert outcome.errors == [
            f"error: {folder}: a run is still active there in another process; wait for its "
            f"end, or give this one another place {PLACES}"
        ]
        assert outcome.code == 2
        assert [file.name for file in Path(folder).iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("folder", "words"),
    [FOLDERS[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in FOLDERS[1:])],
)
def test_a_dead_run_s_folder_is_no_obstacle(
    folder: str, words: tuple[str, ...], recipe: str, tmp_path: Path
) -> None:
    folder = folder.format(root=tmp_path)
    with held(Path(folder)):
        pass
    assert (Path(folder) / ".lock").is_file()  # of the process that was killed
    outcome = run("fit", "--config", recipe, *ONE, *words)
    assert outcome.code == 0, outcome.err
    assert not list(tmp_path.rglob(".lock"))


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock, "lockf", refuse)
    locks = FolderLocks()
    with pytest.warns(UserWarning, match=r"this disk has no locks \(No locks available\)"):
        assert locks.acquire([tmp_path]) is None
    locks.release()

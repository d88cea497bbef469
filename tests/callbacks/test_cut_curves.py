"""Curves of a run that goes on: nothing twice, nothing lost."""

import csv
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from detox_lightning.report.curves import read_curves
from detox_lightning.runs.lightning_internals import batches_stepped, settle_between_batches
from detox_lightning.runs.truncate_logs import (
    claim_version,
    keep_rows,
    truncate_curves,
)


def log(logger: TensorBoardLogger | CSVLogger, steps: range, value: float) -> None:
    for step in steps:
        logger.log_metrics({"objective/kl": value + step}, step=step)
        logger.save()


@pytest.mark.parametrize("end", [9, 5], ids=["beyond", "killed again before"])
def test_what_was_logged_after_the_checkpoint_goes(tmp_path: Path, end: int) -> None:
    first = TensorBoardLogger(tmp_path, "run", version=0)
    log(first, range(7), 0.5)
    first.finalize("failed")
    second = TensorBoardLogger(tmp_path, "run", version="version_0", filename_suffix=".2")
    truncate_curves(second, 4)
    log(second, range(4, end), 10.5)
    points = [(step, step + (0.5 if step < 4 else 10.5)) for step in range(end)]
    assert read_curves(tmp_path / "run" / "version_0") == {"objective/kl": points}


def test_a_folder_without_curves_gets_none(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "run")
    truncate_curves(logger, 4)
    assert not list(tmp_path.rglob("events*"))


def test_rows_up_to_the_checkpoint_stay(tmp_path: Path) -> None:
    log(CSVLogger(tmp_path, "run", version=0), range(7), 0.5)
    file = tmp_path / "run" / "version_0" / "metrics.csv"
    with file.open("a") as rows:
        rows.write("0.5")  # killed while writing
    written = file.read_text()
    keep_rows([CSVLogger(tmp_path, "run", version="version_0")])  # killed at once, and begun again
    second = CSVLogger(tmp_path, "run", version="version_0")
    keep_rows([second])
    second.log_hyperparams({"x": 1})  # Lightning makes its writer, which would remove the file
    assert file.read_text() == written  # also if the start fails from here on
    truncate_curves(second, 4)
    second.log_metrics({"val/kl": 3.0}, step=4)
    second.save()
    with file.open() as lines:
        rows = [(row["step"], row["objective/kl"], row["val/kl"]) for row in csv.DictReader(lines)]
    first = [(str(step), str(step + 0.5), "") for step in range(4)]
    assert rows == [*first, ("4", "", "3.0")]
    assert [x.name for x in file.parent.glob(".*")] == []


def test_a_run_from_the_start_keeps_no_rows(tmp_path: Path) -> None:
    log(CSVLogger(tmp_path, "run", version=0), range(3), 0.5)
    second = CSVLogger(tmp_path, "run", version="version_0")
    keep_rows([second])
    truncate_curves(second, 0)
    second.log_metrics({"val/kl": 3.0}, step=0)
    second.save()
    assert (tmp_path / "run" / "version_0" / "metrics.csv").read_text() == "step,val/kl\n0,3.0\n"


def test_a_new_run_s_loggers_have_one_number_that_nobody_else_has(tmp_path: Path) -> None:
    def begin() -> list[TensorBoardLogger | CSVLogger]:
        return [TensorBoardLogger(tmp_path / "runs", "x"), CSVLogger(tmp_path / "csv", "x")]

    (tmp_path / "csv" / "x" / "version_4").mkdir(parents=True)
    first, second = begin(), begin()
    given = CSVLogger(tmp_path / "csv", "x", version="mine")
    claim_version([*first, given])
    claim_version(second)
    assert [x.version for x in (*first, given, *second)] == [5, 5, "mine", 6, 6]
    names = sorted(x.relative_to(tmp_path).as_posix() for x in tmp_path.glob("*/x/*"))
    assert names == [
        *(f"csv/x/version_{number}" for number in (4, 5, 6)),
        *(f"runs/x/version_{number}" for number in (5, 6)),
    ]


def tracker(ready: int, done: int) -> dict[str, int]:
    return {"ready": ready, "started": ready, "processed": done, "completed": done}


def test_a_place_in_an_epoch_is_settled() -> None:
    """Epoch 1, batch 2 of the epoch is fetched already and would be the last."""
    batches = {"total": tracker(8, 7), "current": tracker(3, 2), "is_last_batch": True}
    epochs = {"total": tracker(2, 1), "current": tracker(2, 1)}
    loops = {
        "epoch_progress": epochs,
        "epoch_loop.batch_progress": batches,
        "epoch_loop.state_dict": {"_batches_that_stepped": 7},
    }
    settle_between_batches(loops)
    assert batches == {"total": tracker(7, 7), "current": tracker(2, 2), "is_last_batch": False}
    assert epochs == {"total": tracker(2, 1), "current": tracker(2, 1)}
    assert batches_stepped(loops) == 7


@pytest.mark.parametrize("ready", [3, 2], ids=["the next has begun", "training is over"])
def test_a_place_between_epochs_is_settled(ready: int) -> None:
    current = tracker(1, 0) if ready == 3 else tracker(5, 5)
    batches = {"total": tracker(10 + (ready == 3), 10), "current": current, "is_last_batch": True}
    epochs = {"total": tracker(ready, 2), "current": tracker(ready, 2)}
    settle_between_batches({"epoch_progress": epochs, "epoch_loop.batch_progress": batches})
    assert batches == {"total": tracker(10, 10), "current": tracker(0, 0), "is_last_batch": False}
    assert epochs == {"total": tracker(2, 2), "current": tracker(2, 2)}

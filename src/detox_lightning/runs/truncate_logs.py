"""Curves of a run that goes on in its folder: what comes after the checkpoint is cut off."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.errors import InputError, explain
from detox_lightning.runs.atomic_save import partial_of
from detox_lightning.runs.run_folders import refuse_unwritable

KEPT = ".metrics.csv.kept"


def cut_curves(logger: Logger, point: int) -> None:
    """Makes a logger's curves end before a point of the x-axis, if there are any in its folder.

    Args:
        logger: Of TensorBoard or CSV; others are left alone. Nothing was logged yet.
        point: The first that goes.
    """
    if isinstance(logger, TensorBoardLogger) and any(Path(logger.log_dir).glob("events.out.*")):
        cut_events(logger.experiment, point)
    if isinstance(logger, CSVLogger):
        cut_rows(logger, point)


def cut_events(writer: Any, point: int) -> None:
    """Tells TensorBoard's readers that a run goes on here, and to drop what they know of later.

    Args:
        writer: A ``SummaryWriter`` of the same folder.
        point: The first that goes.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer.file_writer.add_event(Event(step=point, file_version="brain.Event:2"))
    start = SessionLog(status=SessionLog.START)
    writer.file_writer.add_event(Event(step=point, session_log=start))
    writer.flush()


@rank_zero_only
def keep_rows(loggers: Iterable[Logger]) -> None:
    """Puts ``metrics.csv`` out of the way of Lightning, which removes it when a run goes on.

    Args:
        loggers: Not in use yet.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            file = Path(logger.log_dir) / "metrics.csv"
            if file.is_file():
                file.replace(file.with_name(KEPT))


def put_rows_back(loggers: Iterable[Logger]) -> None:
    """Undoes :func:`keep_rows` where a run has failed before it could go on.

    Args:
        loggers: Of the first process.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            kept = Path(logger.log_dir) / KEPT
            file = kept.with_name("metrics.csv")
            if kept.is_file() and not file.exists():
                kept.replace(file)


@rank_zero_only
def claim_folders(loggers: Iterable[Logger]) -> None:
    """Gives a new run folders that no other has, of the same number for all its loggers.

    Args:
        loggers: Not in use yet; those that have a version keep it.

    Raises:
        InputError: If there can't be folders.
    """
    known = (TensorBoardLogger, CSVLogger)
    new: list[Any] = [x for x in loggers if isinstance(x, known) and x._version is None]
    if not new or any("://" in str(logger.log_dir) for logger in new):
        return
    number = 0
    while True:
        number = max(number, *(logger._get_next_version() for logger in new))
        for logger in new:
            logger._version = number
        try:
            for folder in dict.fromkeys(logger.log_dir for logger in new):
                Path(folder).mkdir(parents=True)
        except FileExistsError:  # another run was quicker
            number += 1
        except OSError as error:
            raise InputError(f"trainer.logger.save_dir: {explain(error)}") from error
        else:
            return


@rank_zero_only
def refuse_unwritable_logs(loggers: Iterable[Logger], claims: bool) -> None:
    """Makes sure that loggers can write into their folders.

    Args:
        loggers: Not in use yet.
        claims: Whether new ones get folders by :func:`claim_folders`, which says it by itself.

    Raises:
        InputError: If one can't.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger | CSVLogger):
            continue
        if claims and logger._version is None:  # to ask for the folder would choose a version
            continue
        if "://" not in str(logger.log_dir):
            name = f"trainer.logger.save_dir={logger.save_dir}"
            refuse_unwritable(Path(logger.log_dir), name, makes=False)


def cut_rows(logger: CSVLogger, point: int) -> None:
    """Brings back what :func:`keep_rows` kept, up to a point.

    Args:
        logger: Whose rows they are.
        point: The first that goes.
    """
    kept = Path(logger.log_dir) / KEPT
    if not kept.is_file():
        return
    with kept.open(newline="", encoding="utf8") as lines:
        reader = csv.DictReader(lines)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if _step(row) < point]
    if rows:
        partial = partial_of(kept)
        with partial.open("w", newline="", encoding="utf8") as lines:
            writer = csv.DictWriter(lines, names)
            writer.writeheader()
            writer.writerows(rows)
        logger.experiment.metrics_keys = names
        partial.replace(kept.with_name("metrics.csv"))
    kept.unlink()


def _step(row: dict[str, Any]) -> float:
    """A row's place; infinite in one that was written in part."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")

"""The loggers of a run: folders that no other run has, and curves that end at the checkpoint."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.errors import InputError, explain
from detox_lightning.runs.run_folders import partial_of, refuse_unwritable


@rank_zero_only
def claim_version(loggers: Iterable[Logger]) -> None:
    """Gives a new run the next version number at which none of its loggers has a folder.

    Args:
        loggers: Not in use yet; those that have a version keep it.

    Raises:
        InputError: If the folders can't be created.
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
    """Raises an InputError if a logger can't write into its folder.

    Args:
        loggers: Not in use yet.
        claims: Whether new ones get folders by :func:`claim_version`, which checks by itself.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger | CSVLogger):
            continue
        if claims and logger._version is None:  # reading log_dir would choose a version
            continue
        if "://" not in str(logger.log_dir):
            name = f"trainer.logger.save_dir={logger.save_dir}"
            refuse_unwritable(Path(logger.log_dir), name, create=False)


def truncate_curves(logger: Logger, point: int) -> None:
    """Makes the curves in a logger's folder end before a place on their x-axis.

    Args:
        logger: Of TensorBoard or CSV, which has logged nothing yet; others are left alone.
        point: The first place that is cut off.
    """
    if isinstance(logger, TensorBoardLogger) and any(Path(logger.log_dir).glob("events.out.*")):
        _truncate_events(logger.experiment, point)
    if isinstance(logger, CSVLogger):
        _truncate_rows(logger, point)


def _truncate_events(writer: Any, point: int) -> None:
    """Writes TensorBoard's mark of a new session, at which its readers drop later points."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer.file_writer.add_event(Event(step=point, file_version="brain.Event:2"))
    start = SessionLog(status=SessionLog.START)
    writer.file_writer.add_event(Event(step=point, session_log=start))
    writer.flush()


@rank_zero_only
def set_rows_aside(loggers: Iterable[Logger]) -> None:
    """Hides ``metrics.csv`` from Lightning's logger, which deletes it when a run resumes."""
    for file, aside in _csv_files(loggers):
        if file.is_file():
            file.replace(aside)


def restore_rows(loggers: Iterable[Logger]) -> None:
    """Undoes :func:`set_rows_aside` if a run has failed before it logged anything."""
    for file, aside in _csv_files(loggers):
        if aside.is_file() and not file.exists():
            aside.replace(file)


def _csv_files(loggers: Iterable[Logger]) -> Iterator[tuple[Path, Path]]:
    """Yields the file of each CSV logger, and the name under which it is set aside."""
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            file = Path(logger.log_dir, "metrics.csv")
            yield file, file.with_name(".metrics.csv.kept")


def _truncate_rows(logger: CSVLogger, point: int) -> None:
    """Writes the rows that were set aside back, up to ``point``."""
    ((file, aside),) = _csv_files([logger])
    if not aside.is_file():
        return
    with aside.open(newline="", encoding="utf8") as lines:
        reader = csv.DictReader(lines)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if _step(row) < point]
    if rows:
        partial = partial_of(aside)
        with partial.open("w", newline="", encoding="utf8") as lines:
            writer = csv.DictWriter(lines, names)
            writer.writeheader()
            writer.writerows(rows)
        logger.experiment.metrics_keys = names
        partial.replace(file)
    aside.unlink()


def _step(row: dict[str, Any]) -> float:
    """Returns a row's step; infinity if the row was only half written."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")

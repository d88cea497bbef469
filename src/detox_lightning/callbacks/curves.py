"""Curves of a run that goes on in its folder: what comes after the checkpoint is cut off."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

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


def cut_rows(logger: CSVLogger, point: int) -> None:
    """Cuts ``metrics.csv``, which Lightning would remove.

    Args:
        logger: Whose folder it is in.
        point: The first that goes.
    """
    folder = Path(logger.log_dir)
    kept, file = folder / KEPT, folder / "metrics.csv"
    source = file if file.is_file() else kept
    if not source.is_file():
        return
    with source.open(newline="", encoding="utf8") as lines:
        reader = csv.DictReader(lines)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if _step(row) < point]
    partial = kept.with_name(f"{KEPT}.partial")
    with partial.open("w", newline="", encoding="utf8") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(kept)
    logger.experiment.metrics_keys = names  # making it removes the file
    kept.replace(file)


def _step(row: dict[str, Any]) -> float:
    """A row's place; infinite in one that was written in part."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")

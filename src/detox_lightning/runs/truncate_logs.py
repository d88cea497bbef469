"""The loggers of a run: folders of its own, and curves that end at the checkpoint."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.errors import InputError, explain
from detox_lightning.runs.run_folders import FolderLogger, atomic_file, refuse_unwritable


@rank_zero_only
def claim_version(loggers: Iterable[Logger]) -> None:
    """Gives a new run the next version number that is free for all its loggers.

    Args:
        loggers: Loggers that are not in use yet; those with a version keep it.

    Raises:
        InputError: If the folders can't be created.
    """
    new = [x for x in loggers if isinstance(x, FolderLogger) and x._version is None]
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
        except FileExistsError:  # another run was faster
            number += 1
        except OSError as error:
            raise InputError(f"trainer.logger.save_dir: {explain(error)}") from error
        else:
            return


@rank_zero_only
def refuse_unwritable_logs(loggers: Iterable[Logger]) -> None:
    """Raises an InputError if a logger can't write into its folder.

    Loggers without a version are left to :func:`claim_version`: ``log_dir`` would choose one.
    """
    for logger in [x for x in loggers if isinstance(x, FolderLogger) and x._version is not None]:
        if "://" not in str(logger.log_dir):
            name = f"trainer.logger.save_dir={logger.save_dir}"
            refuse_unwritable(Path(logger.log_dir), name)


@rank_zero_only
def keep_rows(loggers: Iterable[Logger]) -> None:
    """Keeps the rows in ``metrics.csv``, which Lightning's logger deletes when a run resumes."""
    for logger in loggers:
        if isinstance(logger, CSVLogger) and "://" not in str(logger.log_dir):
            logger._experiment = _KeptRows(logger.log_dir)


def truncate_curves(logger: Logger, point: int) -> None:
    """Makes the curves in a logger's folder end before a point of their x-axis.

    Args:
        logger: A logger that has logged nothing yet. Only those of TensorBoard and CSV are changed.
        point: The first point that is cut off.
    """
    if isinstance(logger, CSVLogger) and isinstance(logger.experiment, _KeptRows):
        logger.experiment.truncate(point)
    if isinstance(logger, TensorBoardLogger) and any(Path(logger.log_dir).glob("events.out.*")):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        # the mark of a new session makes TensorBoard's readers drop later points
        writer, start = logger.experiment.file_writer, SessionLog(status=SessionLog.START)
        writer.add_event(Event(step=point, file_version="brain.Event:2"))
        writer.add_event(Event(step=point, session_log=start))
        writer.flush()


class _KeptRows(ExperimentWriter):
    """Lightning's writer of ``metrics.csv``, but existing rows and columns stay in the file."""

    def _check_log_dir_exists(self) -> None:  # Lightning's deletes the file
        if self._fs.isfile(self.metrics_file_path):
            with self._fs.open(self.metrics_file_path, "r", newline="") as lines:
                self.metrics_keys = [*(csv.DictReader(lines).fieldnames or ())]

    def truncate(self, point: int) -> None:
        """Drops the rows from ``point`` on, and an incomplete last row."""
        file = Path(self.metrics_file_path)
        if not file.is_file():
            return
        with file.open(newline="", encoding="utf8") as lines:
            reader = csv.DictReader(lines)
            rows = [row for row in reader if _step(row) < point]
        if not rows:
            self.metrics_keys = []
            file.unlink()
            return
        with atomic_file(file) as partial, partial.open("w", newline="", encoding="utf8") as lines:
            writer = csv.DictWriter(lines, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


def _step(row: dict[str, Any]) -> float:
    """Returns a row's step; infinity if the row is incomplete."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")

"""Finds the checkpoint that ``--ckpt_path`` means, and the folder in which its run resumes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.protocols import callbacks_of
from detox_lightning.runs.atomic_save import LAST, PREVIOUS, is_whole, previous_of
from detox_lightning.runs.checkpoint_reading import check_parts, open_checkpoint, refuse_other_files
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.resume_callback import RUN
from detox_lightning.runs.run_folders import CHECKPOINTS, FolderLogger, folder_of
from detox_lightning.runs.run_lock import is_locked
from detox_lightning.runs.truncate_logs import keep_rows


class Place(NamedTuple):
    """Where a command's runs keep their checkpoints.

    Attributes:
        folder: A folder of runs, or one folder of checkpoints.
        has_runs: Whether it is a folder of runs, each with a folder of checkpoints.
    """

    folder: Path
    has_runs: bool

    def folders(self) -> list[Path]:
        """Returns the folders of checkpoints that exist."""
        found = self.folder.glob(f"*/{CHECKPOINTS}") if self.has_runs else [self.folder]
        return [folder for folder in found if folder.is_dir()]


def choose_checkpoint(
    verb: str,
    trainer: Trainer,
    name: str,
    loggers: Sequence[Logger],
    weights_only: bool | None = True,
) -> str | None:
    """Returns the checkpoint that ``--ckpt_path`` means; a fit also resumes in its run's folder.

    Args:
        verb: ``fit``, ``test``, …
        trainer: The command's trainer.
        name: The flag's value: a file, the folder of a run, or ``last``.
        loggers: Those of the command. A fit with ``last`` sets their version.
        weights_only: The flag of that name; False opens a file whatever it holds.

    Returns:
        The file; None if a fit with ``last`` starts a new run, as nothing is saved yet.

    Raises:
        InputError: If there is no such checkpoint, or it is damaged or not one of Lightning's.
    """
    if name != LAST:
        found: str | Path | None = named_checkpoint(name)
    elif verb == "fit":
        found = resume_last_run(trainer, loggers)
    else:
        found = last_checkpoint(find_place(trainer, loggers))
    if found is not None and "://" not in str(found):
        if weights_only is False:
            refuse_other_files(Path(found))
        else:
            check_parts(Path(found), verb)
            trainer.checkpoint = Path(found)  # type: ignore[attr-defined]
    return None if found is None else str(found)


def named_checkpoint(name: str) -> str | Path:
    """Returns a file, or a named folder's last checkpoint; InputError if there is none."""
    if name == "best":
        raise InputError(
            "--ckpt_path best: only the run that made it knows it; give the file that is kept in "
            f"that run's {CHECKPOINTS}/ beside last.ckpt, or last"
        )
    if Path(name).is_dir():
        found = newest_whole(next(Path(name).glob(CHECKPOINTS), Path(name)), name)
        if found is None:
            raise InputError(f"--ckpt_path {name}: this folder has no checkpoint; give a run's")
        return found
    try:
        exists = get_filesystem(name).isfile(name)
    except Exception as error:  # each kind of file system fails in its own way
        raise InputError(f"--ckpt_path {name}: this can't be opened: {error}") from error
    if not exists:
        raise InputError(
            f"--ckpt_path {name}: there is no such file or folder; give a checkpoint, the folder "
            "of a run, or last"
        )
    return name


def resume_last_run(trainer: Trainer, loggers: Sequence[Logger]) -> Path | None:
    """Returns the newest run's checkpoint, and makes the loggers write into that run's folder.

    Where nothing is saved, a new run starts: a job may give ``--ckpt_path last`` at each start.
    Runs that are still active are left alone: jobs of an array may start together.
    """
    place = find_place(trainer, loggers)
    existing = place.folders()
    folders = [folder for folder in existing if not is_locked(folder)]
    if existing and not folders and not place.has_runs:
        raise InputError(
            f"--ckpt_path last: the run in {place.folder} is still active in another process; "
            "wait for its end, or give this one another folder"
        )
    if not folders:
        reason = "all runs in {} are still active" if existing else "there is no run in {} yet"
        rank_zero_warn(
            f"--ckpt_path last: {reason.format(place.folder)}; a new one starts in its own folder"
        )
        return None
    newest = max(folders, key=_last_saved)
    folder = _newest_saved(folders) or newest
    checkpoint = newest_whole(folder)
    if folder != newest or checkpoint is None:
        told = f"the run in {folder} resumes" if checkpoint else "it starts from the beginning"
        rank_zero_warn(f"--ckpt_path last: the last run has no checkpoint in {newest}; {told}")
    version = folder.parent.name if place.has_runs else run_name(checkpoint)
    for logger in loggers:
        if isinstance(logger, FolderLogger) and _given_version(logger) is None:
            logger._version = version
    return checkpoint


def last_checkpoint(place: Place) -> Path:
    """Returns the newest run's newest undamaged checkpoint, or raises an InputError."""
    folder = _newest_saved(place.folders())
    found = None if folder is None else newest_whole(folder)
    if found is None:
        pattern = f"*/{CHECKPOINTS}/{LAST}*.ckpt" if place.has_runs else f"{LAST}*.ckpt"
        raise InputError(
            f"--ckpt_path last: there is no {pattern} in {place.folder}; train first, with "
            "fit, or give a checkpoint or the folder of a run"
        )
    return found


def newest_whole(folder: Path, name: str = LAST) -> Path | None:
    """Returns a folder's ``last.ckpt``, or if that is damaged the newest checkpoint before it.

    Several runs may have used the folder. None if there are no checkpoints. Messages name the
    value of ``--ckpt_path``.

    Raises:
        InputError: If all are damaged.
    """
    files = sorted(checkpoints_in(folder), key=lambda file: file.stat().st_mtime, reverse=True)
    last = next((file for file in files if file.name.startswith(LAST)), None)
    if last is not None and is_whole(last):
        return last
    if last is not None:  # of the other runs in the folder, neither their last nor previous one
        of_run = (last, previous_of(last))
        files = [f for f in files if f in of_run or not f.name.startswith((LAST, PREVIOUS))]
    whole = sorted(filter(is_whole, files), key=steps_of, reverse=True)
    damaged = ", ".join(str(file) for file in files if file not in whole)
    if damaged and not whole:
        raise InputError(
            f"--ckpt_path {name}: all checkpoints in {folder} are damaged ({damaged}); "
            "start a new run, with fit and without this flag"
        )
    if damaged:
        rank_zero_warn(f"--ckpt_path {name}: damaged: {damaged}; {whole[0]} is used instead")
    return whole[0] if whole else None


def newest_run(runs: Path, verb: str) -> Path | None:
    """Returns the folder of the newest run with a checkpoint; for ``fit``, of an inactive run."""
    folders = runs.glob(f"*/*/{CHECKPOINTS}")
    folder = _newest_saved(x for x in folders if verb != "fit" or not is_locked(x))
    return None if folder is None else folder.parent


def _newest_saved(folders: Iterable[Path]) -> Path | None:
    return max(filter(checkpoints_in, folders), key=_last_saved, default=None)


def checkpoints_in(folder: Path) -> list[Path]:
    """Returns a folder's files of checkpoints, whole or not."""
    return [file for file in folder.glob("*.ckpt") if file.is_file()]


def steps_of(checkpoint: Path) -> int:
    """Returns the optimizer steps done before a checkpoint; -1 if it doesn't say."""
    steps = open_checkpoint(checkpoint).get("global_step", 0)
    return steps if isinstance(steps, int) else -1


def _last_saved(folder: Path) -> float:
    """Returns when a checkpoint was last saved in a folder, or when the folder was created."""
    times = [file.stat().st_mtime for file in checkpoints_in(folder)]
    return max(times, default=folder.stat().st_mtime)


def run_name(checkpoint: Path | None) -> str | None:
    """Returns the name of the run's folder that a checkpoint tells; None if it is not a plain name.

    The checkpoint may come from anybody: a name must not lead out of the folder of runs.
    """
    name = None if checkpoint is None else open_checkpoint(checkpoint).get(RUN)
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
        return None
    # loggers expand $ and ~
    return None if name[0] == "~" or set(name) & set("/\\:$") else name


def find_place(trainer: Trainer, loggers: Sequence[Logger]) -> Place:
    """Returns where runs keep their checkpoints, by ``checkpoint.dirpath`` or the first logger.

    Raises:
        InputError: If only the run itself knows its logger's folder, or the folder is an address.
    """
    dirpaths = [x.dirpath for x in callbacks_of(trainer) if isinstance(x, BoundedCheckpoint)]
    logger, has_runs = next(iter(loggers), None), False
    version = _given_version(logger) if isinstance(logger, FolderLogger) else None
    if dirpaths and dirpaths[0] is not None:
        folder = str(dirpaths[0])
    elif logger is None:
        folder = os.path.join(trainer.default_root_dir, CHECKPOINTS)
    elif not isinstance(logger, FolderLogger):
        raise InputError(
            "--ckpt_path last finds runs of TensorBoardLogger, of CSVLogger and without a logger, "
            f"not of {type(logger).__name__}: give the file"
        )
    elif version is None:
        folder, has_runs = logger.root_dir, True
    else:
        run = version if isinstance(version, str) else f"version_{version}"
        folder = os.path.join(logger.root_dir, run, CHECKPOINTS)
    if "://" in folder:
        raise InputError(
            f"--ckpt_path last: {folder} is an address, and only folders are searched for runs: "
            "give the file itself"
        )
    return Place(Path(folder), has_runs)


def _given_version(logger: FolderLogger) -> str | int | None:
    """Returns the version that the user gave; Lightning gives its own logger SLURM's job number."""
    version = logger._version  # ``version`` would choose the next number
    is_lightnings = logger.name == "lightning_logs" and version == SLURMEnvironment.job_id()
    return None if is_lightnings else version


def log_beside(trainer: Trainer, verb: str, checkpoint: str | None) -> None:
    """Makes a command that doesn't train log into ``logs`` in the folder of its checkpoint's run.

    If that can't be written, it is ``evaluation`` beside the runs. A prediction logs nothing.
    """
    run = folder_of(Path(checkpoint or ""))
    is_beside = checkpoint is not None and os.access(run, os.W_OK)  # not at an address
    for logger in [x for x in trainer.loggers if isinstance(x, FolderLogger)]:
        if is_beside and verb == "predict":
            trainer.loggers.remove(logger)
        elif is_beside:
            logger._root_dir = logger._save_dir = str(run)  # type: ignore[union-attr]
            logger._name, logger._version = "", "logs"
        elif _given_version(logger) is None:
            logger._version = "evaluation"
    keep_rows(trainer.loggers)

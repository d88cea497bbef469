"""Finds the checkpoint that ``--ckpt_path`` means, and the folder in which its run resumes."""

import zipfile
from os.path import relpath
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.runs.atomic_save import LAST, PREVIOUS, is_whole, previous_of
from detox_lightning.runs.checkpoint_reading import check_parts, open_checkpoint
from detox_lightning.runs.resume_callback import RUN
from detox_lightning.runs.run_lock import is_locked

CHECKPOINTS = "checkpoints"
_FOLDER_LOGGERS = ("TensorBoardLogger", "CSVLogger")  # whose folders are known before a run


class Place(NamedTuple):
    """Where a command's runs keep their checkpoints.

    Attributes:
        root: The folder of runs.
        only: The only folder of checkpoints that is meant, which may be the root itself; None: any
            run's in the root.
    """

    root: Path
    only: Path | None

    def folders(self) -> list[Path]:
        """Returns the folders of checkpoints that exist."""
        found = self.root.glob(f"*/{CHECKPOINTS}") if self.only is None else [self.only]
        return [folder for folder in found if folder.is_dir()]

    @property
    def pattern(self) -> str:
        """Where ``last.ckpt`` is looked for, for messages."""
        folder = Path("*", CHECKPOINTS) if self.only is None else relpath(self.only, self.root)
        return str(Path(folder, f"{LAST}*.ckpt"))


def choose_checkpoint(verb: str, config: Any) -> None:
    """Replaces ``ckpt_path: last`` by a file; a fit also resumes in that file's run folder.

    Args:
        verb: ``fit``, ``test``, …
        config: The verb's configuration; changed in place.

    Raises:
        InputError: If there is no such checkpoint, or it is damaged or none of Lightning's.
    """
    name = config["ckpt_path"]
    if name != LAST:
        _check_exists(name)
    elif verb == "fit":
        _resume_last_run(config)
    else:
        config["ckpt_path"] = str(last_checkpoint(find_place(config)))
    found = config["ckpt_path"]
    if found is not None and "://" not in found and config.get("weights_only") is not False:
        check_parts(Path(found), verb)


def _check_exists(name: str) -> None:
    """Refuses a ``--ckpt_path`` that is no file, or one that torch can't have written."""
    if name == "best":
        raise InputError(
            "--ckpt_path best: only the run that made it knows it; give the file that is kept in "
            f"that run's {CHECKPOINTS}/ beside last.ckpt, or last"
        )
    try:
        exists = get_filesystem(name).isfile(name)
    except Exception as error:  # each kind of file system fails in its own way
        raise InputError(f"--ckpt_path {name}: this can't be opened: {error}") from error
    if not exists:
        raise InputError(f"--ckpt_path {name}: there is no such file; give a checkpoint, or last")
    if "://" not in name and not zipfile.is_zipfile(name):
        raise InputError(f"--ckpt_path {name}: this is no checkpoint, or a torn one")


def _resume_last_run(config: Any) -> None:
    """Puts the newest run's checkpoint and folder into the configuration of a fit.

    Where nothing is saved, the run begins anew: a job gives ``--ckpt_path last`` whenever it is
    started. Runs that are alive are left alone: jobs of an array may start together.
    """
    place = find_place(config)
    existing = place.folders()
    folders = [folder for folder in existing if not is_locked(folder)]
    config["ckpt_path"] = None
    if existing and not folders:
        if place.only is not None:
            raise InputError(
                f"--ckpt_path last: the run in {place.only} is still going on in another process; "
                "wait for its end, or give this one another folder"
            )
        rank_zero_warn(
            f"--ckpt_path last: runs under {place.root} are still going on; this one begins anew, "
            "in a folder of its own"
        )
        return
    if not folders:
        rank_zero_warn(f"--ckpt_path last: no run under {place.root} yet; this one begins anew")
        return
    folder = max(folders, key=_last_saved)
    checkpoint = newest_whole(folder)
    version = folder.parent.name if place.only != place.root else run_name(checkpoint)
    if checkpoint is None:
        rank_zero_warn(
            f"--ckpt_path last: the last run has no checkpoint in {folder} yet; this one begins "
            "anew. To go on with an earlier run, give its file"
        )
    else:
        config["ckpt_path"] = str(checkpoint)
    if version is not None:
        _use_version(config["trainer"], version)


def last_checkpoint(place: Place) -> Path:
    """Returns the newest run's newest undamaged checkpoint, or raises an InputError."""
    folders = [folder for folder in place.folders() if any(folder.glob("*.ckpt"))]
    found = newest_whole(max(folders, key=_last_saved)) if folders else None
    if found is None:
        raise InputError(
            f"--ckpt_path last: there is no {place.pattern} under {place.root}; "
            "give the file, or leave the flag out to begin anew"
        )
    return found


def newest_whole(folder: Path) -> Path | None:
    """Returns a folder's ``last.ckpt``, or if that is damaged the newest checkpoint before it.

    Several runs may have used the folder. None if there are no checkpoints.

    Raises:
        InputError: If all are damaged.
    """
    files = [file for file in folder.glob("*.ckpt") if file.is_file()]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    lasts = [file for file in files if file.name.startswith(LAST)]
    if lasts and is_whole(lasts[0]):
        return lasts[0]
    if lasts:  # of the other runs in the folder, neither their last nor their previous one
        of_run = {lasts[0], previous_of(lasts[0])}
        files = [f for f in files if f in of_run or not f.name.startswith((LAST, PREVIOUS))]
    whole = sorted(filter(is_whole, files), key=_steps_of, reverse=True)
    torn = [file for file in files if file not in whole]
    if whole:
        if torn:
            rank_zero_warn(
                f"--ckpt_path last: {', '.join(map(str, torn))} is torn; goes on from {whole[0]} "
                "instead"
            )
        return whole[0]
    if torn:
        raise InputError(
            f"--ckpt_path last: all checkpoints in {folder} are torn "
            f"({', '.join(file.name for file in torn)}); leave the flag out to begin anew"
        )
    return None


def _steps_of(checkpoint: Path) -> int:
    """Returns the optimizer steps done before a checkpoint; -1 if it doesn't say."""
    steps = open_checkpoint(checkpoint).get("global_step", 0)
    return steps if isinstance(steps, int) else -1


def _last_saved(folder: Path) -> float:
    """Returns when a checkpoint was last saved in a folder, or when the folder was created."""
    files = [file.stat().st_mtime for file in folder.glob("*.ckpt") if file.is_file()]
    return max(files, default=folder.stat().st_mtime)


def run_name(checkpoint: Path | None) -> str | None:
    """Returns the name of the run's folder that a checkpoint tells; None if it is not a plain name.

    The checkpoint may come from anybody: a name must not lead out of the folder of runs.
    """
    name = None if checkpoint is None else open_checkpoint(checkpoint).get(RUN)
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
        return None
    # loggers expand $ and ~
    return None if name[0] == "~" or set(name) & set("/\\:$") else name


def _use_version(trainer: Any, version: str) -> None:
    """Makes the loggers in a trainer's configuration write into an existing run's folder."""
    if trainer["logger"] is True or trainer["logger"] is None:
        options = Namespace(
            version=None, save_dir=trainer["default_root_dir"] or ".", name="lightning_logs"
        )
        name = "lightning.pytorch.loggers.TensorBoardLogger"
        trainer["logger"] = Namespace(class_path=name, init_args=options)
    for logger in _as_list(trainer["logger"]):
        if _class_name(logger) in _FOLDER_LOGGERS and logger["init_args"].get("version") is None:
            logger["init_args"]["version"] = version


def find_place(config: Any) -> Place:
    """Returns where runs keep their checkpoints, by ``checkpoint.dirpath`` or the first logger.

    Raises:
        InputError: If the logger's folders have no names that are known beforehand, or the folder
            is an address.
    """
    trainer = config["trainer"]
    if chosen := config["checkpoint"]["dirpath"]:
        root = _local_folder("checkpoint.dirpath", chosen)
        return Place(root, root)
    is_default = trainer["logger"] is True or trainer["logger"] is None
    loggers = [] if is_default else _as_list(trainer["logger"])
    if not loggers:
        root = _local_folder("trainer.default_root_dir", trainer["default_root_dir"] or ".")
        if is_default:
            return Place(root / "lightning_logs", None)
        return Place(root / CHECKPOINTS, root / CHECKPOINTS)
    if _class_name(loggers[0]) not in _FOLDER_LOGGERS:
        raise InputError(
            "--ckpt_path last finds runs of TensorBoardLogger, of CSVLogger and without a logger, "
            f"not of {_class_name(loggers[0])}: give the file"
        )
    options = loggers[0].get("init_args") or {}
    root = _local_folder("trainer.logger.save_dir", options["save_dir"]) / (options["name"] or "")
    if (version := options.get("version")) is None:
        return Place(root, None)
    run = version if isinstance(version, str) else f"version_{version}"
    return Place(root, root / run / CHECKPOINTS)


def _local_folder(flag: str, folder: str | Path) -> Path:
    """Returns the folder that a flag names; refuses an address (``s3://…``)."""
    if "://" in str(folder):
        raise InputError(
            f"--ckpt_path last: --{flag} {folder} is an address, whose runs are not looked "
            "through: give the file itself, or leave the flag out to begin anew"
        )
    return Path(folder)


def _class_name(logger: Any) -> str:
    """Returns the name of a configured logger's class, without its module."""
    return str(logger["class_path"]).rpartition(".")[2]


def _as_list(loggers: Any) -> list[Any]:
    """Returns the loggers of a configuration: none (False), one or several."""
    if not loggers:
        return []
    return loggers if isinstance(loggers, list) else [loggers]

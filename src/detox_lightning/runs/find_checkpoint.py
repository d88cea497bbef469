"""Finds the checkpoint that ``--ckpt_path`` means, and the folder in which its run goes on."""

import zipfile
from collections.abc import Iterable
from os.path import relpath
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.runs.atomic_save import LAST, PREVIOUS, is_whole, previous_of
from detox_lightning.runs.checkpoint_reading import check_form, done, last_activity, opened
from detox_lightning.runs.resume_callback import RUN, is_alive

CHECKPOINTS = "checkpoints"
FOLDER_LOGGERS = ("TensorBoardLogger", "CSVLogger")  # whose runs' folders have names known before


class Place(NamedTuple):
    """Where a command's runs keep their checkpoints.

    Attributes:
        root: The folder.
        only: The only folder of checkpoints that is meant, which may be the root itself; None: any
            run's in the root.
    """

    root: Path
    only: Path | None

    def folders(self) -> list[Path]:
        """The folders of checkpoints that are there."""
        found = self.root.glob(f"*/{CHECKPOINTS}") if self.only is None else [self.only]
        return [folder for folder in found if folder.is_dir()]

    @property
    def last(self) -> str:
        """Where ``last.ckpt`` is looked for, for messages."""
        folder = Path("*", CHECKPOINTS) if self.only is None else relpath(self.only, self.root)
        return str(Path(folder, f"{LAST}*.ckpt"))


def choose_checkpoint(verb: str, config: Any) -> None:
    """Turns what ``--ckpt_path`` says into a file; a fit goes on in the folder of its last run.

    Args:
        verb: ``fit``, ``test``, …
        config: Of the verb; changed in place.

    Raises:
        InputError: If there is no such checkpoint, or none that is whole and of Lightning's form.
    """
    name = config["ckpt_path"]
    if name != LAST:
        check_is_checkpoint(name)
    elif verb == "fit":
        go_on(config)
    else:
        config["ckpt_path"] = str(last_checkpoint(find_place(config)))
    found = config["ckpt_path"]
    if found is not None and "://" not in found and config.get("weights_only") is not False:
        check_form(Path(found), verb)


def check_is_checkpoint(name: str) -> None:
    """Refuses what Lightning would fail on.

    Args:
        name: What ``--ckpt_path`` says.

    Raises:
        InputError: If it is no file, or not one that torch wrote.
    """
    if name == "best":
        raise InputError(
            "--ckpt_path best: only the run that made it knows it; give the file that is kept in "
            f"that run's {CHECKPOINTS}/ beside last.ckpt, or last"
        )
    try:
        is_there = get_filesystem(name).isfile(name)
    except Exception as error:  # each kind of place fails in its own way
        raise InputError(f"--ckpt_path {name}: this can't be opened: {error}") from error
    if not is_there:
        raise InputError(f"--ckpt_path {name}: there is no such file; give a checkpoint, or last")
    if "://" not in name and not zipfile.is_zipfile(name):
        raise InputError(f"--ckpt_path {name}: this is no checkpoint, or a torn one")


def go_on(config: Any) -> None:
    """Lets a fit go on with the newest run, in its folder; begins anew where nothing is saved.

    Beginning anew is what a job needs that gives ``--ckpt_path last`` whenever it is started. Runs
    that other processes are at are left alone: jobs of an array may begin together.

    Args:
        config: Of ``fit``; checkpoint and the loggers' version are put in.

    Raises:
        InputError: If the run has checkpoints, and none is whole; or if it is the only one that is
            allowed, and still alive.
    """
    there = (place := find_place(config)).folders()
    folders = [folder for folder in there if not is_alive(folder)]
    config["ckpt_path"] = None
    if there and not folders:
        begin_beside(place)
        return
    if not folders:
        rank_zero_warn(f"--ckpt_path last: no run under {place.root} yet; this one begins anew")
        return
    folder = max(folders, key=last_activity)
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
        use_version(config["trainer"], version)


def begin_beside(place: Place) -> None:
    """Lets a run begin in a folder of its own, as all that are there are alive.

    Args:
        place: Where runs are.

    Raises:
        InputError: If there can't be a folder of its own.
    """
    if place.only is not None:
        raise InputError(
            f"--ckpt_path last: the run in {place.only} is still going on in another process; wait "
            "for its end, or give this one another folder"
        )
    rank_zero_warn(
        f"--ckpt_path last: runs under {place.root} are still going on; this one begins anew, in a "
        "folder of its own"
    )


def last_checkpoint(place: Place) -> Path:
    """The newest run's newest checkpoint that is whole.

    Args:
        place: Where runs are.

    Raises:
        InputError: If there is none.
    """
    folders = [folder for folder in place.folders() if any(folder.glob("*.ckpt"))]
    found = newest_whole(max(folders, key=last_activity)) if folders else None
    if found is None:
        raise InputError(
            f"--ckpt_path last: there is no {place.last} under {place.root}; "
            "give the file, or leave the flag out to begin anew"
        )
    return found


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint to go on from: ``last.ckpt``, or if that is torn the newest before it.

    Args:
        folder: Of one run's checkpoints.

    Returns:
        None if there are no checkpoints.

    Raises:
        InputError: If all are torn.
    """
    files = [file for file in folder.glob("*.ckpt") if file.is_file()]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    lasts = [file for file in files if file.name.startswith(LAST)]
    if lasts and is_whole(lasts[0]):
        return lasts[0]
    # of several runs in a folder, each has a last one and a previous one of its own
    own = {*lasts[:1], *map(previous_of, lasts[:1])}
    rest = [file for file in files if file in own or not file.name.startswith((LAST, PREVIOUS))]
    if not lasts:
        rest = files
    whole = sorted(filter(is_whole, rest), key=done, reverse=True)
    if whole:
        torn = ", ".join(str(file) for file in rest if file not in whole)
        if torn:
            rank_zero_warn(f"--ckpt_path last: {torn} is torn; goes on from {whole[0]} instead")
        return whole[0]
    if rest:
        raise InputError(
            f"--ckpt_path last: all checkpoints in {folder} are torn "
            f"({', '.join(file.name for file in rest)}); leave the flag out to begin anew"
        )
    return None


def run_name(checkpoint: Path | None) -> str | None:
    """The name of the folder of the run that wrote a checkpoint, where it tells.

    What would lead out of the folder of runs is none: the checkpoint may be somebody else's.
    """
    name = None if checkpoint is None else opened(checkpoint).get(RUN)
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
        return None
    # loggers put variables and a home in the place of $ and ~
    return None if name[0] == "~" or set(name) & set("/\\:$") else name


def use_version(trainer: Any, version: str) -> None:
    """Lets loggers write into the folder of a run that is there.

    Args:
        trainer: Its configuration; changed in place.
        version: The folder's name.
    """
    if trainer["logger"] is True or trainer["logger"] is None:
        options = Namespace(
            version=None, save_dir=trainer["default_root_dir"] or ".", name="lightning_logs"
        )
        name = "lightning.pytorch.loggers.TensorBoardLogger"
        trainer["logger"] = Namespace(class_path=name, init_args=options)
    for logger in _each(trainer["logger"]):
        if short_name(logger) in FOLDER_LOGGERS and logger["init_args"].get("version") is None:
            logger["init_args"]["version"] = version


def find_place(config: Any) -> Place:
    """Where a verb's runs keep their checkpoints.

    Args:
        config: Of the verb; ``checkpoint.dirpath`` or the first logger says it.

    Raises:
        InputError: If the logger is one whose folders have no names that are known beforehand, or
            the folder is no place on a disk.
    """
    trainer = config["trainer"]
    if chosen := config["checkpoint"]["dirpath"]:
        root = on_disk("checkpoint.dirpath", chosen)
        return Place(root, root)
    is_default = trainer["logger"] is True or trainer["logger"] is None
    loggers = [] if is_default else _each(trainer["logger"])
    if not loggers:
        root = on_disk("trainer.default_root_dir", trainer["default_root_dir"] or ".")
        if is_default:
            return Place(root / "lightning_logs", None)
        return Place(root / CHECKPOINTS, root / CHECKPOINTS)
    options = loggers[0].get("init_args") or {}
    if short_name(loggers[0]) in FOLDER_LOGGERS:
        root = on_disk("trainer.logger.save_dir", options["save_dir"]) / (options["name"] or "")
        if (version := options.get("version")) is None:
            return Place(root, None)
        run = version if isinstance(version, str) else f"version_{version}"
        return Place(root, root / run / CHECKPOINTS)
    raise InputError(
        "--ckpt_path last finds runs of TensorBoardLogger, of CSVLogger and without a logger, "
        f"not of {short_name(loggers[0])}: give the file"
    )


def on_disk(flag: str, folder: str | Path) -> Path:
    """A folder whose runs can be looked through.

    Args:
        flag: That says it, for the message.
        folder: Its path.

    Raises:
        InputError: If it is an address (``s3://…``).
    """
    if "://" in str(folder):
        raise InputError(
            f"--ckpt_path last: --{flag} {folder} is an address, whose runs are not looked "
            "through: give the file itself, or leave the flag out to begin anew"
        )
    return Path(folder)


def short_name(logger: Any) -> str:
    """The name of a configured logger's class."""
    return str(logger["class_path"]).rpartition(".")[2]


def _each(loggers: Any) -> list[Any]:
    """One logger, several or none (False) as a list."""
    if not loggers:
        return []
    is_several = isinstance(loggers, Iterable) and not hasattr(loggers, "class_path")
    return list(loggers) if is_several and not isinstance(loggers, dict) else [loggers]

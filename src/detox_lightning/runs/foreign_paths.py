"""Paths that a checkpoint holds: none may lead out of the run's own folder of checkpoints."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # of a ModelCheckpoint
BEST = "best_k_models"  # whose keys are paths
SCHEME = re.compile(r"[A-Za-z][\w+.-]+:")  # longer than the letter of a Windows disk
# what holds a path, by its name
NAMED = re.compile(r"(?:^|_)(?:dir|file)?(?:path|dir|folder|file)s?$", re.IGNORECASE)


def is_inside(place: str | Path, folder: str | Path | None) -> bool:
    """Whether a path is of something in a folder, wherever links and ``..`` in it lead.

    Args:
        place: The path, or an address (``s3://…``).
        folder: The folder; None holds nothing.
    """
    text, root = str(place), str(folder or "")
    if "://" in root:
        return text.startswith(f"{root.rstrip('/')}/") and ".." not in text.split("/")
    if not root or "::" in text or text.startswith("~") or SCHEME.match(text):
        return False  # what files are opened with takes these for places elsewhere
    try:
        return Path(root).resolve() in Path(text).resolve().parents
    except (OSError, ValueError, RuntimeError):  # a zero byte, a link to itself
        return False


def drop_foreign_paths(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Lets callbacks keep their own state where a checkpoint's names places outside their folder.

    Lightning removes what its state calls the previous checkpoint, and all that is in it; the
    checkpoint may be somebody else's.

    Args:
        trainer: Its callbacks know their folders.
        checkpoint: As Lightning hands it to ``on_load_checkpoint``; changed in place.
    """
    states = checkpoint["callbacks"]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for key in {callback.state_key, callback._legacy_state_key} & set(states):
            folder = getattr(callback, "dirpath", None) or own_folder(trainer)
            foreign = list(foreign_paths(callback, states[key], folder))
            if not foreign:
                continue
            if not is_of_another_folder(states[key], folder, foreign):
                rank_zero_warn(
                    f"--ckpt_path {trainer.ckpt_path}: what it says of {type(callback).__name__} "
                    f"is dropped, as it names what is no checkpoint in {folder}: {foreign[0]!r}"
                )
            states[key] = callback.state_dict()


def own_folder(trainer: Trainer) -> str | None:
    """The folder of the run's checkpoints, if it has any."""
    return getattr(trainer.checkpoint_callback, "dirpath", None)


def foreign_paths(callback: Callback, state: Any, folder: str | None) -> Iterator[str]:
    """The paths in a callback's state that lead out of a folder.

    Args:
        callback: Whose state it is.
        state: From a checkpoint, whatever it holds.
        folder: Of the run's checkpoints.
    """
    rest = state
    if isinstance(callback, ModelCheckpoint) and isinstance(state, Mapping):
        best, worst = state.get(BEST) or {}, state.get("kth_best_model_path")
        for path in (*(state.get(name) for name in PATHS), *best):
            is_file = str(path).endswith(callback.FILE_EXTENSION)
            if path and not (isinstance(path, str) and is_file and is_inside(path, folder)):
                yield str(path)
        if worst not in best and (worst or 0 < callback.save_top_k <= len(best)):
            yield str(worst)  # which Lightning looks up among the best
        known = (*PATHS, BEST, "dirpath", "monitor")  # the folder is only compared with ours
        rest = {name: value for name, value in state.items() if name not in known}
    for name, text in texts(rest):
        if is_path(name, text) and not is_inside(text, folder):
            yield text


def texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a state, keys included, each with the name that it has there.

    Args:
        value: The state, or a part of it.
        name: The part's name.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield "", str(key)
            yield from texts(part, str(key))
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from texts(part, name)
    elif isinstance(value, str | os.PathLike):
        yield name, str(value)


def is_path(name: str, text: str) -> bool:
    """Whether a text is the path of something, as far as that can be told.

    Args:
        name: Of the text.
        text: The text; a metric's name has a slash, too.
    """
    parts = re.split(r"[/\\]", text)
    is_plain = not (text[:1] in ("/", "\\", "~") or ".." in parts or SCHEME.match(text))
    named = bool(text) and NAMED.search(name) is not None
    return named or not is_plain or (len(parts) > 1 and os.path.lexists(text.partition("\0")[0]))


def is_of_another_folder(state: Any, folder: str | None, paths: list[str]) -> bool:
    """Whether paths are those of a run that kept its checkpoints in another folder.

    A run that begins from such a checkpoint, or was moved, has no use for them.

    Args:
        state: A callback's, from a checkpoint.
        folder: Of the checkpoints here.
        paths: Those that lead out of it.
    """
    its = state.get("dirpath") if isinstance(state, Mapping) else None
    if not isinstance(its, str) or its == folder:
        return False
    return all(is_inside(path, its) for path in paths)

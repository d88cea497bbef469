"""Drops saved states of callbacks that name paths outside the run's own folder."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.protocols import callbacks_of

# in the state of a ModelCheckpoint: values that are paths, and a dictionary whose keys are paths
_PATHS, _BEST = ("best_model_path", "kth_best_model_path", "last_model_path"), "best_k_models"
_SCHEME = re.compile(r"[A-Za-z][\w+.-]+:")  # longer than the letter of a Windows drive
_PATH_NAME = re.compile(r"(?:^|_)(?:dir|file)?(?:path|dir|folder|file)s?$", re.IGNORECASE)


def is_inside(path: str | Path, folder: str | Path | None) -> bool:
    """Whether a path or address (``s3://…``) is in a folder, with links and ``..`` resolved."""
    text, root = str(path), str(folder or "")
    if "://" in root:
        return text.startswith(f"{root.rstrip('/')}/") and ".." not in text.split("/")
    if not root or "::" in text or text.startswith("~") or _SCHEME.match(text):
        return False  # fsspec, which opens files for Lightning, takes these for other places
    try:
        return Path(root).resolve() in Path(text).resolve().parents
    except (OSError, ValueError, RuntimeError):  # a zero byte, a link to itself
        return False


def drop_foreign_paths(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Resets the states of callbacks that name paths outside the run's folder of checkpoints.

    Lightning deletes the path that a state calls the previous checkpoint, with everything in it,
    and a checkpoint may come from anybody.

    Args:
        trainer: A trainer whose callbacks know their folders.
        checkpoint: As Lightning hands it to ``on_load_checkpoint``; changed in place.
    """
    states = checkpoint["callbacks"]
    of_run = getattr(trainer.checkpoint_callback, "dirpath", None)
    for callback in callbacks_of(trainer):
        for key in {callback.state_key, callback._legacy_state_key} & set(states):
            state, folder = states[key], getattr(callback, "dirpath", None) or of_run
            foreign = next(_foreign_paths(callback, state, folder), None)
            if foreign is None:
                continue
            # if the run was moved, or starts from another run's checkpoint, its folder differs
            if not isinstance(state, Mapping) or state.get("dirpath", folder) == folder:
                rank_zero_warn(
                    f"--ckpt_path {trainer.ckpt_path}: the state of {type(callback).__name__} is "
                    f"dropped, as it names a path that is not a checkpoint in {folder}: {foreign!r}"
                )
            states[key] = callback.state_dict()


def _foreign_paths(callback: Callback, state: Any, folder: str | None) -> Iterator[str]:
    """Yields the paths in a callback's state that are not in ``folder``."""
    rest = state
    if isinstance(callback, ModelCheckpoint) and isinstance(state, Mapping):
        best, worst = state.get(_BEST) or {}, state.get("kth_best_model_path")
        for path in (*(state.get(name) for name in _PATHS), *best):
            is_checkpoint = str(path).endswith(callback.FILE_EXTENSION)
            if path and not (isinstance(path, str) and is_checkpoint and is_inside(path, folder)):
                yield str(path)
        if worst not in best and (worst or 0 < callback.save_top_k <= len(best)):
            yield str(worst)  # Lightning looks it up among the best
        known = (*_PATHS, _BEST, "dirpath", "monitor")  # dirpath is only compared with ours
        rest = {name: value for name, value in state.items() if name not in known}
    for name, text in _named_texts(rest):
        if _looks_like_path(name, text) and not is_inside(text, folder):
            yield text


def _named_texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields all texts in a nested state, keys included, each with the key that leads to it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield "", str(key)
            yield from _named_texts(item, str(key))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _named_texts(item, name)
    elif isinstance(value, str | os.PathLike):
        yield name, str(value)


def _looks_like_path(name: str, text: str) -> bool:
    """Guesses whether a text is a path; the name of a metric (``val/kl``) has a slash, too."""
    parts = re.split(r"[/\\]", text)
    if text[:1] in ("/", "\\", "~") or ".." in parts or _SCHEME.match(text):
        return True
    has_path_name = bool(text) and _PATH_NAME.search(name) is not None
    return has_path_name or (len(parts) > 1 and os.path.lexists(text.partition("\0")[0]))

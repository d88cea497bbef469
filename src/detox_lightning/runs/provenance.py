"""Where a checkpoint or a report comes from: the command, the time, the versions, the data."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from detox_lightning.protocols import data_of, stage_of
from detox_lightning.redaction import redact_words, without_passwords

ORIGIN_KEY = "detox_lightning_origin"  # in a checkpoint
_PACKAGES = "detox-lightning torch lightning transformers peft datasets torchmetrics scipy"


class CommandLine(NamedTuple):
    """A command of this package.

    Attributes:
        words: Its words after the program's name.
        resumes: Whether the same command, given again, resumes its run, as it does with
            ``--ckpt_path last``.
    """

    words: Sequence[str]
    resumes: bool


def command_of(trainer: Trainer) -> CommandLine | None:
    """Returns the command that made a trainer; None if a program of the user's made it."""
    return getattr(trainer, "command", None)


def shell_line(words: Sequence[str], program: str = "python -m detox_lightning") -> str:
    """Returns a command line to be copied into a shell, without secrets."""
    return f"{program} {shlex.join(redact_words(words))}"


class OriginCallback(Callback):
    """Stores in each checkpoint which command made it, from which model, data and versions."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds plain values under :data:`ORIGIN_KEY`."""
        checkpoint[ORIGIN_KEY] = to_plain(training_origin(trainer, pl_module))


def training_origin(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Returns what a model is trained from.

    Returns:
        ``base``; ``data`` (names); ``prompt``: ``template`` and ``chat``, see :class:`Data`;
        ``about`` (facts by name).
    """
    stage, data = stage_of(trainer), data_of(trainer)
    about = {"stage": type(module).__name__, **(stage.about if stage else {}), **origin(trainer)}
    return {
        "base": _portable_name(stage.source.base) if stage else None,
        "data": [_portable_name(name) for name in (data.sources if data else [])],
        "prompt": {"template": data.template, "chat": data.chat_template} if data else {},
        "about": about,
    }


def origin(trainer: Trainer) -> dict[str, Any]:
    """Returns ``command``, ``created`` (ISO time) and ``versions`` of this run."""
    command = command_of(trainer)
    line = shell_line(command.words) if command else shell_line(sys.argv, "python")
    return {
        "command": line,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: _installed_version(name) for name in _PACKAGES.split()},
    }


def to_plain(value: Any) -> Any:
    """Turns dataclasses into dictionaries, and numbers of restricted types into plain ones.

    Functions are left out of dictionaries; other objects become their text. Tensors stay.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items() if not callable(item)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value if value is None or isinstance(value, Tensor) else str(value)


def _portable_name(name: str) -> str:
    """Returns a name that also means the same in another working directory."""
    return str(Path(name).resolve()) if Path(name).exists() else without_passwords(name)


def _installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from a folder without being installed
        return "unknown"

"""Where a file comes from: the command, the time, the versions."""

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.redaction import redact_words, without_passwords
from detox_lightning.report.report_files import versions
from detox_lightning.runs.command_line import command_of
from detox_lightning.stages.plain import plain

KEY = "detox_lightning_origin"


class OriginCallback(Callback):
    """Notes in each checkpoint which command made it, of what, with which data and versions."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes plain values, beside what the module writes of itself."""
        checkpoint[KEY] = plain(training(trainer, pl_module))


def training(trainer: Trainer, module: Any) -> dict[str, Any]:
    """Where what a run trains comes from: ``base``, ``data`` (names), ``about`` (by name).

    Args:
        trainer: Has the data, and the command line's words.
        module: What is trained.
    """
    about = {"stage": type(module).__name__, **getattr(module, "about", {}), **origin(trainer)}
    names = getattr(getattr(trainer, "datamodule", None), "sources", [])
    return {
        "base": from_anywhere(module.tokenizer_name),
        "data": [from_anywhere(name) for name in names],
        "about": about,
    }


def from_anywhere(name: str) -> str:
    """A name that means the same in another working directory: that of a folder in full.

    Args:
        name: A file, a folder, or what is none of this machine's.
    """
    return str(Path(name).resolve()) if Path(name).exists() else without_passwords(name)


def origin(trainer: Trainer) -> dict[str, Any]:
    """Which command made something, when, and with what versions.

    Args:
        trainer: One of the command line has its words.
    """
    made_by = command_of(trainer)
    return {
        "command": command(made_by.words) if made_by else command(sys.argv, "python"),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def command(words: Sequence[str], program: str = "python -m detox_lightning") -> str:
    """The command line that was given, without what is secret.

    Args:
        words: Its words after the program's name.
        program: What stands before them.
    """
    return f"{program} {shlex.join(redact_words(words))}"

"""The command that a trainer was made by."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from lightning.pytorch import Trainer

from detox_lightning.redaction import redact_words


class CommandLine(NamedTuple):
    """A command of this package.

    Attributes:
        words: Its words after the program's name.
        resumes: Whether the same command, given again, goes on with its run, as it does with
            ``--ckpt_path last``.
    """

    words: Sequence[str]
    resumes: bool


def command_of(trainer: Trainer) -> CommandLine | None:
    """Returns the command that a trainer was made by; None if a program of the user's made it."""
    return getattr(trainer, "command", None)


def shell_line(words: Sequence[str], program: str = "python -m detox_lightning") -> str:
    """Returns a command line to be copied into a shell, without secrets."""
    return f"{program} {shlex.join(redact_words(words))}"

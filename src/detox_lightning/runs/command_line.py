"""The command that a trainer was made by."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning.pytorch import Trainer


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

"""Values of ``--ckpt_path`` that name several checkpoints of a run, which only ``test`` takes."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import yaml

from detox_lightning.errors import InputError
from detox_lightning.runs.atomic_save import LAST, is_whole
from detox_lightning.runs.find_checkpoint import checkpoints_in, run_name, steps_of

ALL = "all"  # every checkpoint of a run


def names_of(value: Any) -> tuple[list[str], bool]:
    """Splits a value of ``--ckpt_path`` into names; the command is about the last of them.

    ``all`` means ``last``, and ``RUN/all`` means ``RUN``.

    Returns:
        The names, and whether all other checkpoints of the run are meant, too.

    Raises:
        InputError: If a list names something that isn't there.
    """
    items = value
    if isinstance(value, str) and value.startswith("[") and not os.path.exists(value):
        with suppress(yaml.YAMLError, RecursionError):
            items = yaml.safe_load(value)
    if isinstance(items, list | tuple):
        names = [str(x) if isinstance(x, str | Path) else type(x).__name__ for x in items]
        if lost := [name for name in names or [""] if not os.path.exists(name)]:
            raise InputError(
                f"--ckpt_path {value}: {lost[0]!r} is no file or folder; a list takes checkpoints "
                "and folders of runs"
            )
        return names, False
    name = str(value)
    if PurePath(name).name != ALL or os.path.exists(name):
        return [name], False
    return [LAST if name == ALL else str(PurePath(name).parent)], True


def other_checkpoints(checkpoint: Path) -> list[Path]:
    """Returns the whole checkpoints beside one that are of other steps, one for each number."""
    files = filter(is_whole, [*sorted(checkpoints_in(checkpoint.parent)), checkpoint])
    by_steps = {steps_of(file): file for file in files}
    return [file for _, file in sorted(by_steps.items()) if file != checkpoint]


def listed_before(last: Path, others: Sequence[Any]) -> list[Path]:
    """Returns the checkpoints that a list has before its ``last``, by their steps.

    Raises:
        InputError: If one is of another run, or two are the same.
    """
    by_steps = {steps_of(last): last}
    for file in map(Path, others):
        if _run_of(file) != _run_of(last):
            raise InputError(
                f"--ckpt_path {file}: it is of another run than {last}, the last one of the list; "
                "give checkpoints of one run"
            )
        if same := by_steps.get(steps := steps_of(file)):
            raise InputError(
                f"--ckpt_path {file}: it is the same as {same} (optimizer step {steps}); leave one "
                "of them out"
            )
        by_steps[steps] = file
    return [file for _, file in sorted(by_steps.items()) if file != last]


def _run_of(checkpoint: Path) -> tuple[Path, str | None]:
    return checkpoint.parent.resolve(), run_name(checkpoint)

"""``python -m detox_lightning``; also the console script ``detox-lightning``."""

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detox_lightning.cli.verbs import choose_command
from detox_lightning.errors import (
    OUT_OF_MEMORY,
    InputError,
    Stopped,
    TrainingError,
    explain,
    find_cause,
    raised_at,
)
from detox_lightning.redaction import printable

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def main(args: list[str] | None = None, callbacks: Sequence["Callback"] = ()) -> None:
    """Runs a command and turns its failures into one line.

    Args:
        args: The command line's words; None for the program's own.
        callbacks: Callbacks for this run besides those that its flags name.

    Raises:
        SystemExit: With code 2 for a mistake in flags or files, 1 for a failure, 128 + N for a
            command that signal N has stopped.
    """
    words = sys.argv[1:] if args is None else args
    former, threading.excepthook = threading.excepthook, print_thread_failure
    try:
        _run(words, callbacks)
    except SystemExit as end:
        if (failure := failure_behind(end)) is None:
            raise
        raise SystemExit(_report(failure)) from end
    except BaseException as error:
        raise SystemExit(_report(error)) from error
    finally:
        threading.excepthook = former


def print_thread_failure(failed: threading.ExceptHookArgs) -> None:
    """Prints in one line why a thread can't write; the run ends with that at its next write.

    Args:
        failed: The exception and its thread. One that doesn't concern the disk is shown as usual.
    """
    reason = explain(failed.exc_value) if failed.exc_value is not None else None
    if reason is None:
        threading.__excepthook__(failed)
    else:
        sys.stderr.write(f"{reason}\n")


def _run(words: Sequence[str], callbacks: Sequence["Callback"]) -> None:
    verb = choose_command(words)  # help and a misspelt command don't wait for the imports
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():  # each state of a bar would be a line of the log
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DELAY", "3")  # seconds; bars that last an instant aren't shown
    from detox_lightning.lazy_imports import deferred

    with deferred():
        from detox_lightning.cli.command import DetoxCLI
        from detox_lightning.cli.file_commands import FILE_COMMANDS, run_on_file
        from detox_lightning.cli.sheet_command import run_judge_sheet

    if verb in FILE_COMMANDS:
        run_on_file(verb, words[1:])
    elif verb == "judge-sheet":
        run_judge_sheet(words[1:])
    else:
        DetoxCLI(words, callbacks)


def _report(error: BaseException) -> int:
    """Prints why a command has ended, and returns its exit code."""
    if isinstance(error, KeyboardInterrupt):
        if "lightning" not in sys.modules or _is_first_process():
            sys.stderr.write("SIGINT: The command ended at once; saved checkpoints are complete.\n")
        return 130  # 128 and SIGINT's number
    if isinstance(error, Stopped):
        if not _is_first_process():
            return 0
        sys.stderr.write(f"{error}\n")
        return 128 + error.signum
    command = sys.modules.get("detox_lightning.cli.command")
    if command is not None and command.DetoxCLI.debug:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    message, code = _message_and_code(error)
    sys.stderr.write(f"error: {printable(message)}\n")
    return code


def _message_and_code(error: BaseException) -> tuple[str, int]:
    """Returns what is printed of an error, and the exit code."""
    for kind, code in ((InputError, 2), (TrainingError, 1)):
        if (cause := find_cause(error, kind)) is not None:
            return str(cause), code
    if type(error).__name__ == "MisconfigurationException":  # Lightning's name for a mistake
        return " ".join(str(error).split()), 2
    return explain(error) or describe_unforeseen(error), 1


def failure_behind(end: SystemExit) -> BaseException | None:
    """Finds the failure that an exit stands for.

    Args:
        end: The exception.

    Returns:
        Lightning's KeyboardInterrupt; an error that names the line of a run's own code that asked
        the program to end; None if the program itself asked, as after ``--help``.
    """
    if interrupt := find_cause(end, KeyboardInterrupt):
        return interrupt
    frames = traceback.extract_tb(end.__traceback__)
    is_run = any(frame.name in ("_run_subcommand", "instantiate_classes") for frame in frames)
    if not is_run or frames[-1].filename.endswith("argparse.py"):
        return None
    return TrainingError(
        f"SystemExit was raised within the run ({raised_at(end)}) before it had finished; raise "
        "another exception where something is wrong"
    )


def _is_first_process() -> bool:
    """Returns whether this process speaks for all processes of the run."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def describe_unforeseen(error: BaseException) -> str:
    """Describes an error that no other message of this package covers.

    Args:
        error: The exception that a library raised.
    """
    from lightning.pytorch.utilities.memory import is_oom_error

    if "Does not validate against any of the Union subtypes" in str(error):  # by jsonargparse
        error = error.__cause__ or error
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if is_oom_error(error) or isinstance(error, MemoryError):
        return OUT_OF_MEMORY.format(lines[0] if lines else name)
    place = raised_at(error)
    reason = lines[0] if lines else f"raised without a reason{place and f' ({place})'}"
    return f"{name}: {reason} (--debug shows where this comes from)"


if __name__ == "__main__":
    main()

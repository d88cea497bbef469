"""``python -m detox_lightning``; also the console script ``detox-lightning``."""

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detox_lightning.errors import (
    OUT_OF_MEMORY,
    InputError,
    Stopped,
    TrainingError,
    causes,
    explain,
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
    former, threading.excepthook = threading.excepthook, print_thread_failure
    try:
        _run(args, callbacks)
    except KeyboardInterrupt as error:
        raise _interrupted() from error
    except SystemExit as end:
        if find_cause(end, KeyboardInterrupt):  # by way of Lightning
            raise _interrupted() from end
        if (place := exit_within_run(end)) is None:
            raise
        sys.stderr.write(
            f"error: SystemExit was raised within the run ({Path(place.filename).name}, line "
            f"{place.lineno}), which had not come to its end; raise another exception where "
            "something is wrong\n"
        )
        raise SystemExit(1) from end
    finally:
        threading.excepthook = former


def print_thread_failure(failed: threading.ExceptHookArgs) -> None:
    """Prints in a line why a thread can't write; the run ends with that where it writes next.

    Args:
        failed: The exception and its thread; those that don't concern the disk are shown as ever.
    """
    reason = explain(failed.exc_value) if failed.exc_value is not None else None
    if reason is None:
        threading.__excepthook__(failed)
    else:
        sys.stderr.write(f"{reason}\n")


def _run(args: list[str] | None, callbacks: Sequence["Callback"]) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from detox_lightning.lazy_imports import deferred

    with deferred():
        from detox_lightning.cli.command import DetoxCLI

    try:
        DetoxCLI(args, callbacks)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Stopped as stop:
        if not _is_first_process():
            raise SystemExit from stop
        sys.stderr.write(f"{stop}\n")
        raise SystemExit(128 + stop.signum) from stop
    except BaseException as error:
        if DetoxCLI.debug:
            sys.stderr.write(printable("".join(traceback.format_exception(error))))
        message, code = _message_and_code(error)
        sys.stderr.write(f"error: {printable(message)}\n")
        raise SystemExit(code) from error


def _message_and_code(error: BaseException) -> tuple[str, int]:
    """Returns what is printed of an error, and the exit code."""
    for kind, code in ((InputError, 2), (TrainingError, 1)):
        if (cause := find_cause(error, kind)) is not None:
            return str(cause), code
    if type(error).__name__ == "MisconfigurationException":  # Lightning's name for a mistake
        return " ".join(str(error).split()), 2
    return explain(error) or describe_unforeseen(error), 1


def _interrupted() -> SystemExit:
    """Prints that Ctrl-C has ended the command at once."""
    if "lightning" not in sys.modules or _is_first_process():
        sys.stderr.write("SIGINT: ended at once; checkpoints that were saved before are whole\n")
    return SystemExit(130)  # 128 and SIGINT's number


def exit_within_run(end: SystemExit) -> traceback.FrameSummary | None:
    """Finds the line of a run's own code that asked the program to end.

    Args:
        end: The exception.

    Returns:
        None if the program itself asked, as after ``--help``.
    """
    frames = traceback.extract_tb(end.__traceback__)
    is_run = any(frame.name in ("_run_subcommand", "instantiate_classes") for frame in frames)
    is_program = frames[-1].filename.endswith(("argparse.py", str(Path("trainer", "call.py"))))
    return frames[-1] if is_run and not is_program else None


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


def find_cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Finds the first exception of a kind among an exception and its causes.

    Args:
        error: The exception; libraries may have wrapped another one in it.
        kind: The kind.
    """
    return next((cause for cause in causes(error) if isinstance(cause, kind)), None)


if __name__ == "__main__":
    main()

"""``python -m detox_lightning``; also the console script ``detox-lightning``."""

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detox_lightning.errors import causes, explain

if TYPE_CHECKING:
    from lightning.pytorch import Callback

INTERRUPTED = 130  # 128 and SIGINT's number
OF_UNION = "Does not validate against any of the Union subtypes"
ASKED_TO_END = (
    "error: SystemExit was raised within the run ({}, line {}), which had not come to its end; "
    "raise another exception where something is wrong\n"
)


def main(args: list[str] | None = None, callbacks: Sequence["Callback"] = ()) -> None:
    """Runs a command and turns its failures into one line.

    Args:
        args: The command line's words; None for the program's own.
        callbacks: Callbacks for this run besides those that its flags name.

    Raises:
        SystemExit: With code 2 for a mistake in flags or files, 1 for a failure, 128 + N for a
            command that signal N has stopped.
    """
    former, threading.excepthook = threading.excepthook, say_in_a_line
    try:
        answer(args, callbacks)
    except KeyboardInterrupt as error:
        raise SystemExit(interrupted()) from error
    except SystemExit as end:
        if any(
            isinstance(cause, KeyboardInterrupt) for cause in causes(end)
        ):  # by way of Lightning
            raise SystemExit(interrupted()) from end
        if (place := who_left(end)) is None:
            raise
        sys.stderr.write(ASKED_TO_END.format(Path(place.filename).name, place.lineno))
        raise SystemExit(1) from end
    finally:
        threading.excepthook = former


def say_in_a_line(failed: threading.ExceptHookArgs) -> None:
    """Says why a thread can't write; the run ends with that where it writes next.

    Args:
        failed: What was raised in which thread; what isn't of the disk is shown as ever.
    """
    reason = explain(failed.exc_value) if failed.exc_value is not None else None
    if reason is None:
        threading.__excepthook__(failed)
    else:
        sys.stderr.write(f"{reason}\n")


def answer(args: list[str] | None, callbacks: Sequence["Callback"]) -> None:
    """Runs a command; see :func:`main`.

    Args:
        args: The command line's words; None for the program's own.
        callbacks: Callbacks besides.

    Raises:
        SystemExit: If it fails or is stopped.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from detox_lightning.lazy_imports import deferred

    with deferred():
        from detox_lightning.cli.command import DetoxCLI
    from detox_lightning.errors import InputError, Stopped, TrainingError, visible
    from detox_lightning.redaction import discreet

    try:
        DetoxCLI(args, callbacks)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if isinstance(error, Stopped):
            if is_first_process():
                sys.stderr.write(f"{error}\n")
                raise SystemExit(128 + error.signum) from error
            raise SystemExit from error
        if DetoxCLI.debug:
            sys.stderr.write(visible(discreet("".join(traceback.format_exception(error)))))
        for kind, code in ((InputError, 2), (TrainingError, 1)):
            if (cause := find_cause(error, kind)) is not None:
                sys.stderr.write(f"error: {visible(discreet(str(cause)))}\n")
                raise SystemExit(code) from error
        if type(error).__name__ == "MisconfigurationException":  # Lightning's name for a mistake
            sys.stderr.write(f"error: {visible(discreet(' '.join(str(error).split())))}\n")
            raise SystemExit(2) from error
        said = explain(error) or unforeseen(error)
        sys.stderr.write(f"error: {visible(discreet(said))}\n")
        raise SystemExit(1) from error


def interrupted() -> int:
    """Says that Ctrl-C has ended the command at once.

    Returns:
        The exit code.
    """
    if "lightning" not in sys.modules or is_first_process():
        sys.stderr.write("SIGINT: ended at once; checkpoints that were saved before are whole\n")
    return INTERRUPTED


def who_left(end: SystemExit) -> traceback.FrameSummary | None:
    """The place in a run's own code that asked the program to end; None: it was the program.

    Args:
        end: What was raised.
    """
    frames = traceback.extract_tb(end.__traceback__)
    is_run = any(frame.name in ("_run_subcommand", "instantiate_classes") for frame in frames)
    is_program = frames[-1].filename.endswith(("argparse.py", str(Path("trainer", "call.py"))))
    return frames[-1] if is_run and not is_program else None


def is_first_process() -> bool:
    """Whether this process speaks and answers for all that train together."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def unforeseen(error: BaseException) -> str:
    """What is said of an error that nothing here has a line for.

    Args:
        error: As a library raised it.
    """
    from lightning.pytorch.utilities.memory import is_oom_error

    from detox_lightning.errors import OUT_OF_MEMORY, raised_at

    if OF_UNION in str(error):  # what a constructor raised is behind what jsonargparse makes of it
        error = error.__cause__ or error
    lines = str(error).strip().splitlines()
    if is_oom_error(error) or isinstance(error, MemoryError):
        return OUT_OF_MEMORY.format(lines[0] if lines else type(error).__name__)
    place = raised_at(error)
    said = lines[0] if lines else f"raised without a reason{place and f' ({place})'}"
    said = f"{type(error).__name__}: {said}"
    return f"{said} (--debug shows where this comes from)"


def find_cause(error: BaseException | None, kind: type[Exception]) -> Exception | None:
    """The first of an exception and its causes that is of a kind; they may be a circle.

    Args:
        error: What was raised; libraries may have wrapped it.
        kind: The kind.
    """
    return next((cause for cause in causes(error) if isinstance(cause, kind)), None)


if __name__ == "__main__":
    main()

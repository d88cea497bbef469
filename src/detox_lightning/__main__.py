"""``python -m detox_lightning``; also the console script ``detox-lightning``."""

import os
import sys
import traceback


def main(args: list[str] | None = None) -> None:
    """Runs a command and turns its failures into one line.

    Args:
        args: The command line's words; None for the program's own.

    Raises:
        SystemExit: With code 2 for a mistake in flags or files, 1 for a failure, 128 + N for a
            training that signal N has stopped.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from detox_lightning.deferral import deferred

    with deferred():
        from detox_lightning.cli import DetoxCLI
    from detox_lightning.errors import InputError, Stopped, TrainingError, explain
    from detox_lightning.secrecy import discreet

    try:
        DetoxCLI(args)
    except Exception as error:
        if isinstance(error, Stopped):
            if is_first_process():
                sys.stderr.write(f"{error}\n")
                raise SystemExit(128 + error.signum) from error
            raise SystemExit from error
        if DetoxCLI.debug:
            sys.stderr.write(discreet("".join(traceback.format_exception(error))))
        for kind, code in ((InputError, 2), (TrainingError, 1)):
            if (cause := find_cause(error, kind)) is not None:
                sys.stderr.write(f"error: {discreet(str(cause))}\n")
                raise SystemExit(code) from error
        if type(error).__name__ == "MisconfigurationException":  # Lightning's name for a mistake
            sys.stderr.write(f"error: {discreet(' '.join(str(error).split()))}\n")
            raise SystemExit(2) from error
        said = explain(error) or unforeseen(error)
        sys.stderr.write(f"error: {discreet(said)}\n")
        raise SystemExit(1) from error


def is_first_process() -> bool:
    """Whether this process speaks and answers for all that train together."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def unforeseen(error: Exception) -> str:
    """What is said of an error that nothing here has a line for.

    Args:
        error: As a library raised it.
    """
    from lightning.pytorch.utilities.memory import is_oom_error

    from detox_lightning.errors import OUT_OF_MEMORY

    lines = str(error).strip().splitlines()
    if is_oom_error(error) or isinstance(error, MemoryError):
        return OUT_OF_MEMORY.format(lines[0] if lines else type(error).__name__)
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{said} (--debug shows where this comes from)"


def find_cause(error: BaseException | None, kind: type[Exception]) -> Exception | None:
    """The first of an exception and its causes that is of a kind.

    Args:
        error: What was raised; libraries may have wrapped it.
        kind: The kind.
    """
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    main()

"""``python -m detox_lightning``; also the console script ``detox-lightning``."""

import os
import sys


def main(args: list[str] | None = None) -> None:
    """Runs a command and turns its failures into one line.

    Args:
        args: The command line's words; None for the program's own.

    Raises:
        SystemExit: With code 2 for a mistake in flags or files, 1 for a training that can't go on.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from detox_lightning.cli import DetoxCLI
    from detox_lightning.errors import InputError, TrainingError

    try:
        DetoxCLI(args)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
    except TrainingError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()

"""What is raised where the user can mend something, in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something the user gave is wrong; the message names flag or file, value and remedy.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        """Makes one line of the message, whatever names from data bring into it.

        Args:
            message: What is wrong, and the remedy.
        """
        super().__init__(" ".join(message.splitlines()))


class TrainingError(RuntimeError):
    """Training can't go on; the message names the rollout, what was seen and the likely causes.

    The command line prints the message alone and exits with code 1.

    Attributes:
        by_all: Whether all processes of the run raise it at once: none of them is to blame.
    """

    by_all = False


class Stopped(Exception):
    """The system asked the run to end, and it did, at a place from which it can go on.

    The command line prints the message alone and exits with 128 and the signal's number, as shells
    expect.
    """

    def __init__(self, message: str, signum: int) -> None:
        """Notes why.

        Args:
            message: What was saved, and how to go on.
            signum: The signal's number.
        """
        super().__init__(message)
        self.signum = signum


def check_divides(small_flag: str, small: int, large_flag: str, large: int) -> None:
    """Makes sure that a batch splits evenly.

    Args:
        small_flag: Names the part.
        small: Its size.
        large_flag: Names the whole.
        large: Its size.

    Raises:
        InputError: If it doesn't.
    """
    if large % small:
        raise InputError(
            f"{large_flag}={large} is not a multiple of {small_flag}={small}: change one of them"
        )


def nearest(name: str, names: Iterable[str]) -> str:
    """Ends a message with what was perhaps meant; empty if nothing is close.

    Args:
        name: What the user wrote.
        names: What there is.
    """
    there = {one.casefold(): one for one in names}
    close = get_close_matches(name.casefold(), there, 1, cutoff=0.78)
    return f"; did you mean {there[close[0]]}?" if close else ""

"""Exceptions that users can do something about, and their messages of one line."""

import errno
import os
import re
import signal
import socket
import ssl
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

_ELSEWHERE = "make room, or give a place on another disk"
_RIGHTS = "give a place that you may read and write, or ask for the right"
_REMEDIES = {
    errno.ENOSPC: _ELSEWHERE,
    errno.EDQUOT: _ELSEWHERE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "give a place on another disk",
    errno.ENOTDIR: "a part of the path is a file, not a folder; give another place",
    errno.EISDIR: "give a file",
    errno.ENOENT: "check the path",
    errno.EEXIST: "give another name, or move it away",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter name",
}
# errors whose message is clear without a file's name
_CLEAR_ALONE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
# the library's message goes into {}
OUT_OF_MEMORY = (
    "out of memory ({}). What helps: a smaller model.micro_batch_size, data.batch_size or "
    "data.eval_batch_size, model.gradient_checkpointing=true, trainer.precision=bf16-mixed; "
    "docs/memory.md has figures"
)
Cause = TypeVar("Cause", bound=BaseException)
# characters that move a terminal's cursor, end a line unseen, or turn the direction of text
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)


# those that ask a run to end; systems send them to all its processes, a loader's workers included
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class InputError(ValueError):
    """Something that the user gave is wrong; the message names flag or file, value and remedy.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        """Makes one line of the message, whatever names from data bring into it."""
        super().__init__(" ".join(message.splitlines()))


class TrainingError(RuntimeError):
    """Training can't go on; the message names the rollout, the observation and likely causes.

    The command line prints the message alone and exits with code 1.

    Attributes:
        by_all: Whether all processes of the run raise it at once: none of them is to blame.
    """

    by_all = False


class Stopped(Exception):
    """The run has ended at the system's request, at a place from which it can go on.

    The command line prints the message alone and exits with 128 and the signal's number, as shells
    expect.

    Attributes:
        signum: The signal's number.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def visible(text: str) -> str:
    r"""Escapes control characters and changes of direction in a text: ``\u202e``.

    Args:
        text: Text in any language; joiners, which its letters need, stay.
    """
    return _CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and those that it came from, each once.

    A library that raises one stored exception again and again makes a circle of them.

    Args:
        error: The exception; None: there is none.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def find_cause(error: BaseException | None, kind: type[Cause]) -> Cause | None:
    """Returns the first exception of a kind among an exception and its causes; None without one.

    Args:
        error: The exception; libraries may have wrapped another one in it. None: there is none.
        kind: The kind.
    """
    return next((cause for cause in causes(error) if isinstance(cause, kind)), None)


def raised_at(error: BaseException) -> str:
    """Returns the file and line in which an exception was raised; empty if it never was."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


class NoStopIteration(AbstractContextManager[None]):
    """Turns a StopIteration raised in a block into an error: Lightning takes it for the data's end.

    Args:
        place: Where in the run, for the message: ``rollout 17``.

    Raises:
        TrainingError: If the block raises StopIteration.
    """

    def __init__(self, place: str):
        self.place = place

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raises the error; a generator's context manager could not: contextlib undoes it."""
        if isinstance(error, StopIteration):
            raise TrainingError(
                f"{self.place}: StopIteration was raised ({raised_at(error)}), perhaps by a next() "
                "on something that is used up"
            ) from error


def check_divides(small_flag: str, small: int, large_flag: str, large: int) -> None:
    """Makes sure that a batch of ``large`` rows splits evenly into batches of ``small`` rows.

    Raises:
        InputError: If it doesn't; the message names both flags.
    """
    if large % small:
        raise InputError(
            f"{large_flag}={large} is not a multiple of {small_flag}={small}: change one of them"
        )


def explain(error: BaseException, file: str | Path | None = None) -> str | None:
    """Explains in one line what the operating system refused: the file, the reason, the remedy.

    Args:
        error: The exception, perhaps of a library that has only the error's number in its text.
        file: The file that was being read or written, if the error doesn't know.

    Returns:
        None if the error is not of the file system.
    """
    if isinstance(error, ssl.SSLError | socket.gaierror):  # their numbers have other meanings
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])  # as libraries written in Rust say it
    where = file or getattr(error, "filename", None)
    if number is None or number <= 0 or not (where or number in _CLEAR_ALONE):
        return None
    place = f"{os.fsdecode(where)}: " if isinstance(where, str | bytes | Path) else ""
    return f"{place}{os.strerror(number)}; {_REMEDIES.get(number, 'see to it, and try again')}"


@contextmanager
def writing(file: str | Path) -> Iterator[None]:
    """Names the file that a block can't write.

    Args:
        file: The file, or a folder.

    Raises:
        TrainingError: If the operating system refuses.
    """
    try:
        yield
    except (InputError, TrainingError):
        raise
    except Exception as error:
        reason = explain(error, file)
        if reason is None:
            raise
        raise TrainingError(f"can't write {reason}") from error


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns an end for a message, ``; did you mean …?``; empty if no name is close.

    Args:
        name: The name that the user wrote.
        names: The names that there are.
    """
    known = {candidate.casefold(): candidate for candidate in names}
    close = get_close_matches(name.casefold(), known, 1, cutoff=0.78)
    return f"; did you mean {known[close[0]]}?" if close else ""

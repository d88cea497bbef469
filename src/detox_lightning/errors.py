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

_ELSEWHERE = "make room, or choose a path on another disk"
_RIGHTS = "choose a path that you may read and write, or ask for permission"
_REMEDIES = {
    errno.ENOSPC: _ELSEWHERE,
    errno.EDQUOT: _ELSEWHERE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "choose a path on another disk",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
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
# characters that move a terminal's cursor, end a line invisibly, or change the text's direction
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
# they ask a run to end; systems send them to all its processes, including a loader's workers
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
Cause = TypeVar("Cause", bound=BaseException)


class InputError(ValueError):
    """Something that the user gave is wrong; the message names flag or file, value and remedy.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        """Makes one line of the message, as names from data may contain line breaks."""
        super().__init__(" ".join(message.splitlines()))


class TrainingError(RuntimeError):
    """Training can't go on; the message names the rollout, the observation and likely causes.

    The command line prints the message alone and exits with code 1.

    Attributes:
        by_all: Whether all processes of the run raise it together, so that none is to blame.
    """

    by_all = False


class Stopped(Exception):
    """The run has ended at the system's request, at a point from which it can resume.

    The command line prints the message alone and exits with 128 plus the signal's number, as shells
    expect.

    Attributes:
        signum: The signal's number.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def visible(text: str) -> str:
    r"""Escapes control characters and changes of direction in a text, such as ``\u202e``.

    Args:
        text: Text in any language; joiners stay, since letters need them.
    """
    return _CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and its causes, each once.

    A library that raises one stored exception repeatedly makes a circle of them.

    Args:
        error: The exception; None if there is none.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def find_cause(error: BaseException | None, kind: type[Cause]) -> Cause | None:
    """Returns the first exception of a kind among an exception and its causes, or None."""
    return next((cause for cause in causes(error) if isinstance(cause, kind)), None)


def raised_at(error: BaseException) -> str:
    """Returns the file and line in which an exception was raised; empty if it never was."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


class NoStopIteration(AbstractContextManager[None]):
    """Turns a StopIteration in a block into an error, as Lightning takes it for the data's end.

    Args:
        place: Where in the run, for the message: ``rollout 17``.

    Raises:
        TrainingError: If the block raises StopIteration.
    """

    def __init__(self, place: str):
        self.place = place

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raises the error; contextlib would replace one raised by a generator's context."""
        if isinstance(error, StopIteration):
            raise TrainingError(
                f"{self.place}: StopIteration was raised ({raised_at(error)}), perhaps by a next() "
                "on an iterator that is used up"
            ) from error


def check_divides(small_flag: str, small: int, large_flag: str, large: int) -> None:
    """Raises an InputError, which names both flags, if ``large`` is no multiple of ``small``."""
    if large % small:
        raise InputError(
            f"{large_flag}={large} is not a multiple of {small_flag}={small}: change one of them"
        )


def explain(error: BaseException, file: str | Path | None = None) -> str | None:
    """Explains in one line what the operating system refused: the file, the reason, the remedy.

    Args:
        error: The exception; some libraries put the error's number only into its text.
        file: The file that was being read or written, if the error doesn't name it.

    Returns:
        None if the error does not come from the file system.
    """
    if isinstance(error, ssl.SSLError | socket.gaierror):  # their numbers have other meanings
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])  # the wording of libraries written in Rust
    where = file or getattr(error, "filename", None)
    if number is None or number <= 0 or not (where or number in _CLEAR_ALONE):
        return None
    place = f"{os.fsdecode(where)}: " if isinstance(where, str | bytes | Path) else ""
    return f"{place}{os.strerror(number)}; {_REMEDIES.get(number, 'fix this, and try again')}"


@contextmanager
def writing(file: str | Path) -> Iterator[None]:
    """Turns a block's failure to write a file into an error that names the file.

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
    """Returns the end of a message, ``; did you mean …?``; empty if no name is close.

    Args:
        name: The name that the user wrote.
        names: The names that exist.
    """
    known = {candidate.casefold(): candidate for candidate in names}
    close = get_close_matches(name.casefold(), known, 1, cutoff=0.78)
    return f"; did you mean {known[close[0]]}?" if close else ""

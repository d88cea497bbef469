"""What is raised where the user can mend something, in one line."""

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

REMEDIES = {
    errno.ENOSPC: "make room, or give a place on another disk",
    errno.EDQUOT: "make room, or give a place on another disk",
    errno.EACCES: "give a place that you may read and write, or ask for the right",
    errno.EPERM: "give a place that you may read and write, or ask for the right",
    errno.EROFS: "give a place on another disk",
    errno.ENOTDIR: "a part of the path is a file, not a folder; give another place",
    errno.EISDIR: "give a file",
    errno.ENOENT: "check the path",
    errno.EEXIST: "give another name, or move it away",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter name",
}
ANYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)  # clear without a file's name
# what helps where memory runs out, and the words of the library that says so
OUT_OF_MEMORY = (
    "out of memory ({}). What helps: a smaller model.micro_batch_size, data.batch_size or "
    "data.eval_batch_size, model.gradient_checkpointing=true, trainer.precision=bf16-mixed; "
    "docs/memory.md has figures"
)


# what moves a terminal's cursor, ends a line unseen, or turns the direction of what follows
STEERING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)


# those that ask a run to end; systems send them to all its processes, a loader's workers included
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


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


def visible(text: str) -> str:
    r"""A text in which control characters and changes of direction are seen: ``\u202e``.

    Args:
        text: In any language; marks that its letters need (joiners) stay.
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from, each once.

    A library that raises one stored exception again and again makes a circle of them.

    Args:
        error: What was raised; None: nothing was.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def raised_at(error: BaseException) -> str:
    """The file and the line in which something was raised; empty if it never was.

    Args:
        error: What was raised.
    """
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


def explain(error: BaseException, file: str | Path | None = None) -> str | None:
    """What the operating system refused, in one line: the file, the reason, the remedy.

    Args:
        error: As it was raised, perhaps by a library that has only the number in its text.
        file: What was being read or written, if the error doesn't know.

    Returns:
        None if the error is not of the file system; what a library says of a network stays.
    """
    if isinstance(error, ssl.SSLError | socket.gaierror):  # their numbers are others
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])  # as libraries written in Rust say it
    where = file or getattr(error, "filename", None)
    if number is None or number <= 0 or not (where or number in ANYWHERE):
        return None
    place = f"{os.fsdecode(where)}: " if isinstance(where, str | bytes | Path) else ""
    return f"{place}{os.strerror(number)}; {REMEDIES.get(number, 'see to it, and try again')}"


@contextmanager
def writing(file: str | Path) -> Iterator[None]:
    """Says which file it was, where a block can't write it.

    Args:
        file: Or a folder.

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
    """Ends a message with what was perhaps meant; empty if nothing is close.

    Args:
        name: What the user wrote.
        names: What there is.
    """
    there = {one.casefold(): one for one in names}
    close = get_close_matches(name.casefold(), there, 1, cutoff=0.78)
    return f"; did you mean {there[close[0]]}?" if close else ""

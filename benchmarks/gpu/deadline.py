"""Ends what takes longer than the time that is left."""

import signal
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
AGAIN = 5.0  # seconds until the next try, where something swallowed the exception


class TimeUp(BaseException):
    """No time is left. Not an Exception, which a capture or a run would take for a fault."""


class Deadline:
    """A time at which work ends, whatever it does."""

    def __init__(self, seconds: float):
        """Starts the clock.

        Args:
            seconds: How long all work may take.
        """
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def call(self, work: Callable[[], T]) -> T:
        """Does some work.

        Raises:
            TimeUp: As soon as no time is left.
        """

        def ring(*_: Any) -> None:
            raise TimeUp

        if self.left <= 0:
            raise TimeUp
        before = signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_REAL, self.left, AGAIN)
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

"""A StopIteration within a training step is an error: Lightning takes it for the data's end."""

import functools
from collections.abc import Callable
from typing import Any

from detox_lightning.errors import NoStopIteration

Step = Callable[[Any, Any, int], None]


def not_the_end(step: Step) -> Step:
    """Turns a StopIteration within a training step into an error.

    Args:
        step: The ``training_step`` of a module that has a ``place``; code of the user's runs in it.
    """

    @functools.wraps(step)
    def guarded(self: Any, batch: Any, batch_idx: int) -> None:
        with NoStopIteration(self.place):
            step(self, batch, batch_idx)

    return guarded

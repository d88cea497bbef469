"""What looks like the end of the data to Lightning, and isn't."""

import functools
from collections.abc import Callable
from typing import Any

from detox_lightning.errors import TrainingError, raised_at

Step = Callable[[Any, Any, int], None]


def never_the_end(place: str, work: Callable[[], None]) -> None:
    """Lets a StopIteration from within be an error, which Lightning would do without.

    Args:
        place: Where in the run, for the message.
        work: Is done.

    Raises:
        TrainingError: If one is raised.
    """
    try:
        work()
    except StopIteration as error:
        raise no_end(place, error) from error


def no_end(place: str, error: StopIteration) -> TrainingError:
    """What a StopIteration is where nothing ends.

    Args:
        place: Where in the run, for the message.
        error: As it was raised.
    """
    return TrainingError(
        f"{place}: StopIteration was raised ({raised_at(error)}), perhaps by a next() on something "
        "that is used up"
    )


def not_the_end(step: Step) -> Step:
    """The same of a step.

    Args:
        step: The ``training_step`` of a module with a ``place``; code of the user's runs in it.
    """

    @functools.wraps(step)
    def whole(self: Any, batch: Any, batch_idx: int) -> None:
        never_the_end(self.place, lambda: step(self, batch, batch_idx))

    return whole

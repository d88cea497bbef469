"""What looks like the end of the data to Lightning, and isn't."""

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox_lightning.errors import TrainingError

if TYPE_CHECKING:
    from detox_lightning.modules.ppo import PPOModule

Step = Callable[["PPOModule", Any, int], None]


def not_the_end(step: Step) -> Step:
    """Lets a StopIteration from within a step be an error, which Lightning would do without.

    Args:
        step: A module's ``training_step``, in which code of the user's runs.
    """

    @functools.wraps(step)
    def whole(self: "PPOModule", batch: Any, batch_idx: int) -> None:
        try:
            step(self, batch, batch_idx)
        except StopIteration as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise TrainingError(
                f"{self.place}: StopIteration was raised ({Path(last.filename).name}, line "
                f"{last.lineno}), perhaps by a next() on something that is used up"
            ) from error

    return whole

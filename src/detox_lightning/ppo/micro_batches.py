"""How many responses go through a model at once, and what happens if memory runs out."""

from collections.abc import Callable
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

from detox_lightning.errors import OUT_OF_MEMORY, TrainingError

T = TypeVar("T")


class MicroBatches:
    """The size of micro-batches; it is halved if memory runs out.

    Attributes:
        size: Responses a forward pass.
        halvings: How often memory may still run out.
    """

    def __init__(self, size: int, halvings: float = 1):
        self.size, self.halvings = size, halvings

    def retry_with_half(self, work: Callable[[int], T], place: str, alone: bool) -> T:
        """Calls ``work``, and repeats it with half the size if memory runs out.

        Args:
            work: Takes the size; it may be interrupted and repeated.
            place: Where in the run, for the message.
            alone: Whether this is the only process; others would not know that they must repeat.

        Raises:
            TrainingError: If memory runs out, and halving the size cannot help or has not helped.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not is_oom_error(error):
                    raise
                if not self.halvings or self.size == 1 or not alone:
                    message = OUT_OF_MEMORY.format(str(error).strip().splitlines()[0])
                    raise TrainingError(f"{place}: {message}") from error
            # outside the block above, in which the error keeps the interrupted work's memory alive
            garbage_collection_cuda()
            self.halvings -= 1
            self.size //= 2
            rank_zero_warn(
                f"{place}: out of memory; going on with model.micro_batch_size={self.size}, half "
                "of what it was. The gradients stay those of the mini-batch"
            )

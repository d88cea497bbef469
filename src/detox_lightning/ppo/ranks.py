"""The processes that learn together, as the learner and the actor see them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from detox_lightning.algorithm.masks import Reduce, alone


class Ranks(NamedTuple):
    """The processes that learn together.

    Attributes:
        number: How many there are.
        sum: The sum of a tensor over all of them; one collective.
        unsynced: A block in which gradients stay on their own rank.
    """

    number: int = 1
    sum: Reduce = alone
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext


def ranks_of(trainer: Trainer) -> Ranks:
    """Returns the ranks of a trainer; their sum has no barrier that a GPU would wait at."""

    def sum_over_ranks(x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    unsynced = getattr(trainer.strategy, "block_backward_sync", nullcontext)
    is_alone = trainer.world_size == 1
    return Ranks(trainer.world_size, torch.clone if is_alone else sum_over_ranks, unsynced)

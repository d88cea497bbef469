"""The processes that learn together, as the learner and the actor see them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from detox_lightning.algorithm.masks import Reduce


class Ranks(NamedTuple):
    """The processes that learn together.

    Attributes:
        number: How many there are.
        own: This process's place among them, from 0.
        sum: The sum of a tensor over all of them; one collective.
        unsynced: A block in which gradients stay on their own rank.
    """

    number: int
    own: int
    sum: Reduce
    unsynced: Callable[[], AbstractContextManager[None]]


def ranks_of(trainer: Trainer) -> Ranks:
    """Returns the ranks of a trainer; their sum has no barrier that a GPU would wait at."""

    def sum_over_ranks(x: Tensor) -> Tensor:
        total = x.clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    unsynced = getattr(trainer.strategy, "block_backward_sync", nullcontext)
    return Ranks(trainer.world_size, trainer.global_rank, sum_over_ranks, unsynced)

"""Several ranks in one process: threads whose ``reduce`` waits for all and adds up."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch import Tensor

from detox_lightning.algorithm.masks import Reduce

Result = TypeVar("Result")


class Ranks:
    """A sum over ranks. Ranks that don't all take part in it fail, after a while."""

    def __init__(self, count: int):
        self.barrier = threading.Barrier(count, timeout=10)
        self.parts: list[Tensor] = [Tensor()] * count

    def reduce(self, rank: int) -> Reduce:
        def summed(x: Tensor) -> Tensor:
            self.parts[rank] = x
            self.barrier.wait()
            total = sum(self.parts[1:], self.parts[0].clone())
            self.barrier.wait()
            return total

        return summed


def on_ranks(function: Callable[..., Result], parts: Sequence[tuple[Any, ...]]) -> list[Result]:
    """Calls ``function(*part, reduce)`` on one rank for each part; the results by rank."""
    ranks = Ranks(len(parts))
    with ThreadPoolExecutor(len(parts)) as pool:
        calls = [
            pool.submit(function, *part, ranks.reduce(rank)) for rank, part in enumerate(parts)
        ]
        return [call.result() for call in calls]


def halves(*tensors: Tensor, first: int) -> list[tuple[Tensor, ...]]:
    """The rows of tensors, split between two ranks."""
    return [tuple(x[:first] for x in tensors), tuple(x[first:] for x in tensors)]

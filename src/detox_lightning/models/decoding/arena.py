"""The memory that captured decode steps work on, and the steps themselves.

A CUDA graph reads and writes at fixed addresses, so that each shape of batch would keep room for
its keys and values for ever. Instead all graphs of a policy and its reference work on one piece of
memory, one after the other: what they need together is what the largest of them needs.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.cuda_graph import CapturedStep
from detox_lightning.models.decoding.decoder import Step, writable_tensors

MAX_CAPTURED = 16  # steps; more of them replace the least recently used
ALIGNMENT = 256  # bytes, as for torch's own tensors

Shape = tuple[tuple[int, ...], torch.dtype]


class Arena:
    """One piece of memory, and the steps that were captured on it.

    Attributes:
        size: Bytes that the largest shape so far takes.
        buffer: The memory, ``[size]``; None before.
        steps: Captured steps, the least recently used first.
    """

    def __init__(self) -> None:
        self.size = 0
        self.buffer: Tensor | None = None
        self.steps: dict[Any, CapturedStep] = {}
        self.pool: Any = None  # of the graphs' temporary tensors, as long as there are steps

    def clear(self) -> None:
        """Gives the memory back, and drops all steps."""
        self.steps.clear()
        self.size, self.buffer = 0, None

    @writable_tensors()
    def tensors(self, shapes: list[Shape], device: torch.device) -> list[Tensor]:
        """Tensors of these shapes, one after the other, at the beginning of the memory.

        They hold what was there before, and are valid until the next call. Where the memory is too
        small, more is taken, and all steps are dropped.
        """
        sizes = [
            -(-prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT for shape, dtype in shapes
        ]
        if self.buffer is None or self.buffer.device != device or self.size < sum(sizes):
            self.clear()  # before the new memory is taken
            self.size = sum(sizes)
            self.buffer = torch.empty(self.size, dtype=torch.uint8, device=device)
        parts = self.buffer[: sum(sizes)].split(sizes)
        return [
            part.view(dtype)[: prod(shape)].view(shape)
            for part, (shape, dtype) in zip(parts, shapes, strict=True)
        ]

    def step(self, key: Any, step: Step, model: Any, inputs: list[Tensor]) -> CapturedStep:
        """The step captured under ``key``, which is captured first if there is none.

        Args:
            key: All that the captured step is only valid for, but for the addresses of weights.
            step: What is captured; see :class:`CapturedStep`, which may raise any exception.
            model: The step's model.
            inputs: The step's arguments, from :meth:`tensors`.
        """
        found = self.steps.pop(key, None)
        if found is None or not found.is_current:
            found = None  # before another one is captured
            while len(self.steps) >= MAX_CAPTURED:
                del self.steps[next(iter(self.steps))]
            if not self.steps and inputs[0].is_cuda:  # a pool without graphs can't be used again
                self.pool = torch.cuda.graph_pool_handle()
            found = CapturedStep(step, model, inputs, self.pool)
        self.steps[key] = found
        return found

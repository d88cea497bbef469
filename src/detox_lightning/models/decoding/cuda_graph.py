"""A decode step on a GPU: captured before its first call, launched as one CUDA graph from then on.

On an H100, launching a step's kernels one by one from Python takes about ten times as long as the
kernels themselves. A CUDA graph launches them all at once, but only with the addresses that it was
captured with. The tensors that a step reads and writes (see :mod:`.arena`), and merged weights (see
:mod:`.merging`), are therefore kept from rollout to rollout and overwritten. Compiling the step
would save a quarter to a half of its time, but takes half a minute for each shape of batch
(docs/benchmarks.md). On other devices a "captured" step is the step itself, so that tests need no
GPU.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.decoder import Step, writable_tensors


class CapturedStep:
    """A step captured for one shape, at the addresses of its weights and arguments."""

    def __init__(self, step: Step, model: Any, inputs: list[Tensor], pool: Any = None):
        """Captures a step of a model, which takes about 0.1 seconds and may raise any exception.

        It is called several times, with the same effect as once. ``inputs`` are its arguments, and
        must stay where they are; for ``pool`` see :func:`capture`.
        """
        self.model, self.addresses = model, _addresses(model)
        with writable_tensors():
            self.play = capture(step, inputs, pool)

    @property
    def is_current(self) -> bool:
        """Whether the weights are still at their addresses."""
        return self.addresses == _addresses(self.model)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Plays the step; ``inputs`` are the tensors that it was captured with."""
        with writable_tensors():
            return self.play(*inputs)


def capture(step: Step, inputs: list[Tensor], pool: Any = None) -> Step:
    """A function that launches a step as a CUDA graph on ``inputs``, whatever its arguments.

    On other devices than a GPU it is the step itself. Graphs with the same ``pool`` (a handle of
    torch's) share the memory of their temporary tensors, and of what they return: that must be
    used before the next of them is launched.

    Raises:
        RuntimeError: If the step makes the host wait for the GPU, which no graph can.
    """
    if not inputs[0].is_cuda:
        return step
    # The outer block restores the stream: a capture that fails leaves its own stream current.
    with torch.cuda.device(inputs[0].device), torch.cuda.stream(torch.cuda.current_stream()):
        side_stream = _side_stream(inputs[0].device)
        side_stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side_stream):
                for _ in range(2):  # libraries initialize at their first calls
                    step(*inputs)
                with waits_refused():
                    step(*inputs)
        finally:  # a step that failed has kernels there, which read and write the inputs
            torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # Threads of loaders and collectives may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
            outputs = step(*inputs)

    def play(*_: Tensor) -> tuple[Tensor, Tensor]:
        graph.replay()
        return outputs

    return play


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of trial runs: one for all, since libraries keep memory for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def waits_refused() -> Iterator[None]:
    """Inside the block, an operation that makes the host wait for the GPU raises a RuntimeError.

    A capture would fail there, too, but before version 2.12 torch may then end the process later,
    at a garbage collection. torch notices the waits of its operators, but no call of
    ``torch.cuda.synchronize()``, which no model of transformers makes in a decode step.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _addresses(model: Any) -> list[int]:
    """The addresses of a model's parameters and buffers."""
    return [x.data_ptr() for x in chain(model.parameters(), model.buffers())]

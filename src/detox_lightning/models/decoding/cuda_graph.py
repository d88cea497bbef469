"""A decoder's step on a GPU: captured at its first call, launched as one CUDA graph from then on.

On an H100, launching a step's kernels one by one from Python takes about ten times as long as the
kernels do. A CUDA graph launches them all at once, but reads and writes the very addresses it was
captured with. So what a step reads and writes is kept here from rollout to rollout, and copied
into; merged weights are kept likewise (see :mod:`.merging`). Nothing is compiled: that would save a
quarter of a captured step in float32 and half of it in bfloat16, and takes half a minute for each
shape of batch (docs/benchmarks.md).

Other devices have no graphs. If they are told to capture, the step itself stands for its graph:
that is how it is tested without a GPU.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.decoder import Step

MOST = 16  # captured steps, each with room of its own for keys and values


class Captured:
    """A step captured for one shape, with the tensors that it reads and writes.

    What it gives is overwritten by its next call.
    """

    def __init__(self, step: Step, model: Any, inputs: list[Tensor]):
        """Captures a step, which takes about a tenth of a second.

        Args:
            step: What it does may depend on the shapes of its inputs alone; doing it again changes
                nothing.
            model: Whose step it is, with the weights where they will be.
            inputs: What to call it with, which is its own from now on.

        Raises:
            Exception: Any that torch or the device's driver comes up with.
        """
        self.model, self.inputs = model, inputs
        self.addresses = addresses(model)
        with kept_tensors():
            self.play = captured(step, inputs)

    @property
    def is_current(self) -> bool:
        """Whether the weights are still where they were."""
        return self.addresses == addresses(self.model)

    def take(self, inputs: list[Tensor]) -> list[Tensor]:
        """Copies inputs to where the step reads them.

        Args:
            inputs: As at the beginning.

        Returns:
            The copies, which are always the same tensors.
        """
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        return self.inputs

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Plays the step.

        Args:
            inputs: What :meth:`take` gave.
        """
        with kept_tensors():
            return self.play(*inputs)


def captured(step: Step, inputs: list[Tensor]) -> Step:
    """Captures a step as a CUDA graph.

    Args:
        step: It may be called several times.
        inputs: What the graph will read and write.

    Returns:
        A function that launches the graph, whatever it is given. What it returns is overwritten by
        the next call. On other devices than a GPU the step itself.

    Raises:
        RuntimeError: If the step makes the host wait for the GPU, which no graph can.
    """
    if not inputs[0].is_cuda:
        return step
    # the outer block: a capture that breaks off leaves its own stream the current one
    with torch.cuda.device(inputs[0].device), torch.cuda.stream(torch.cuda.current_stream()):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries set themselves up at their first calls
                step(*inputs)
            with waits_refused():
                step(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # other threads (of loaders, of collectives) go on using the GPU meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            given = step(*inputs)

    def play(*_: Tensor) -> tuple[Tensor, Tensor]:
        graph.replay()
        return given

    return play


@contextmanager
def waits_refused() -> Iterator[None]:
    """Inside the block, what makes the host wait for the GPU raises a RuntimeError.

    A capture would break off there, too, but some versions of torch can't go on after that.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode doesn't find everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def addresses(model: Any) -> list[int]:
    """Where a model's weights are.

    Args:
        model: From transformers, with adapters or without.
    """
    return [x.data_ptr() for x in chain(model.parameters(), model.buffers())]


@contextmanager
def kept_tensors() -> Iterator[None]:
    """Inside the block tensors are made that may be written to later, in whatever mode.

    Those made in inference mode, as in Lightning's validation, may not be while training.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield

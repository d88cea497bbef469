"""A decoder's step on a GPU: compiled, and launched as one CUDA graph.

Launching a step's kernels one by one from Python takes far longer than the kernels do. A CUDA graph
launches them all at once, but reads and writes the very addresses it was captured with. So what a
step reads and writes is kept here from rollout to rollout, and copied into; merged weights are kept
likewise (see :mod:`.merging`). The capture is our own, not ``mode="reduce-overhead"``: that one
leaves out steps that write to their inputs, as this one does with keys and values, unless each
tensor is declared, and checks all weights in Python at each call.

Other devices compile, too, if told so, but have no graph: that is how it is tested without a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.families.stepping import Step

MOST = 16  # compiled steps, each with room of its own for keys and values
VERSIONS = 256  # of a step that torch's compiler may hold: it thinks of a few, and then refuses


class Compiled:
    """A step compiled for one shape, with the tensors that it reads and writes.

    What it gives is overwritten by its next call.
    """

    def __init__(self, step: Step, model: Any, inputs: list[Tensor]):
        """Compiles a step, which takes tens of seconds.

        Args:
            step: What it does may depend on the shapes of its inputs alone; doing it again changes
                nothing.
            model: Whose step it is, with the weights where they will be.
            inputs: What to call it with, which is its own from now on.

        Raises:
            Exception: Any that torch's compiler or the device's driver comes up with.
        """
        from torch._dynamo import config

        self.model, self.inputs = model, inputs
        self.addresses = addresses(model)
        compiled: Step = torch.compile(step, fullgraph=True, dynamic=False)
        with kept_tensors(), config.patch(cache_size_limit=VERSIONS):
            compiled(*inputs)
            self.play = captured(compiled, inputs)

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
        step: Compiled; it may be called several times.
        inputs: What the graph will read and write.

    Returns:
        A function that launches the graph, whatever it is given. What it returns is overwritten by
        the next call. On other devices than a GPU the step itself.
    """
    if not inputs[0].is_cuda:
        return step
    with torch.cuda.device(inputs[0].device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up at their first calls
            for _ in range(3):
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

"""A decoder's step, recorded once and played back without the model's Python code.

Most of a small model's decode step is Python that finds out anew what to do. Here the step's tensor
operations are recorded for one shape of batch and played back by torch's own interpreter. A
recording refers to the model's parameters and so sees what they hold by then. On a GPU the step is
captured instead (see :mod:`.capturing`).
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding import cuda_graph
from detox_lightning.models.decoding.cuda_graph import Captured, kept_tensors
from detox_lightning.models.decoding.decoder import CachedDecoder, Step
from detox_lightning.models.decoding.recordable import active, autocast, can_record, is_plain

WIDTH = 64  # keys are padded to multiples of this: prompts, and the room for responses
MOST = 32  # recordings, of 4 MB and more each
WARM_UP = 64  # calls before a step is recorded, which takes as long as about so many


class Recording:
    """A function of tensors, recorded for one shape of them when it has been called often enough.

    What is played back is what was done before, to the last bit.
    """

    def __init__(self, function: Step, make: Callable[[Step, list[Tensor]], Step] | None, at: int):
        """Starts with the function itself.

        Args:
            function: What it does may depend on the shapes of its inputs alone.
            make: Makes of it, and of inputs of these shapes, what is played back; None: it never
                is.
            at: The call, from 0, at which it is made.
        """
        self.original = self.function = function
        self.make, self.at = make, at
        self.calls = 0

    def take(self, inputs: list[Tensor]) -> list[Tensor]:
        """Takes over inputs.

        Args:
            inputs: What a series of calls begins with.

        Returns:
            Those to call it with: the same, or what they were copied into.
        """
        if isinstance(self.function, Captured):
            if self.function.is_current:
                return self.function.take(inputs)
            self.function = self.original
            self.calls = self.at
        return inputs

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Calls the function or plays it back; what it gives is good until the next call."""
        if self.calls == self.at and self.make is not None:
            self.function = self.make(self.function, list(inputs))
        self.calls += 1
        # unoptimized: the same kernels at the first call and later
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.function(*inputs)


class Recorder:
    """Keeps recordings of a model's decode step by shape.

    Attributes:
        capturing: Whether steps are captured; None: those on a GPU are.
    """

    def __init__(self, capturing: bool | None = None) -> None:
        """Starts without any.

        Args:
            capturing: See above.
        """
        self.capturing = capturing
        self.recordings: dict[Any, Recording] = {}

    def captures(self, model: Any) -> bool:
        """Whether a model's step is captured, rather than recorded.

        Args:
            model: From transformers.
        """
        wanted = model.device.type == "cuda" if self.capturing is None else self.capturing
        return wanted and can_record(model, to_capture=True)

    def steps(self, plain: CachedDecoder, limit: int) -> "RecordedSteps | None":
        """Steps that go on from others.

        Args:
            plain: After the first step, of a model with the weights that it will have until the
                last one.
            limit: Steps at most, the first included.

        Returns:
            None where the model can't be recorded.
        """
        model = plain.model
        if (self.captures(model) or can_record(model)) and is_plain(
            [*plain.self_layers, *plain.cross_layers]
        ):
            function = plain.static_step()
            return function and RecordedSteps(self, plain, function, limit)
        return None

    def recording(self, model: Any, step: Step, inputs: list[Tensor]) -> Recording:
        """The step for inputs of these shapes.

        Args:
            model: From transformers.
            step: Its decode step; see :meth:`CachedDecoder.static_step`.
            inputs: What it takes.
        """
        shapes = tuple((tuple(x.shape), x.dtype, x.device) for x in inputs)
        key = id(model), active(model), autocast(model), shapes
        if key not in self.recordings:
            # torch never gives a recording's memory back: one is not given up for another
            captures = self.captures(model)
            wanted = len(self.recordings) < (cuda_graph.MOST if captures else MOST)
            make = partial(self._captured, model) if captures else record
            may = wanted and (captures or can_record(model))
            self.recordings[key] = Recording(
                step, make if may else None, 0 if captures else WARM_UP
            )
        return self.recordings[key]

    def _captured(self, model: Any, step: Step, inputs: list[Tensor]) -> Step:
        if self.capturing is False:  # by now
            return step
        try:
            return Captured(step, model, inputs)
        except Exception as error:  # torch's, a driver's: whatever it is, there's another way
            self.capturing = False
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"the decode step can't be captured and stays slow: {reason}", stacklevel=2
            )
            return step


class RecordedSteps:
    """Steps that are played back; keys and values are written into tensors of a fixed size."""

    @kept_tensors()
    def __init__(self, recorder: Recorder, plain: CachedDecoder, function: Step, limit: int):
        """Takes over keys and values.

        Args:
            recorder: Knows the recordings.
            plain: See :meth:`Recorder.steps`.
            function: Its step.
            limit: See :meth:`Recorder.steps`.
        """
        self.recorder, self.model, self.function = recorder, plain.model, function
        self.done = plain.mask.shape[1]
        masks, kept = [], []
        for mask, layers, room in (
            (plain.mask, plain.self_layers, padded(self.done + limit - 1)),
            (plain.prompt_mask, plain.cross_layers, None),
        ):
            if mask is not None:
                size = room or padded(mask.shape[1])
                kept += [grown(x, size) for layer in layers for x in (layer.keys, layer.values)]
                masks.append(closed(mask, size, kept[-1].dtype))
        tokens = plain.mask.new_zeros(len(plain.mask), 1, dtype=torch.long)
        self.inputs = [tokens, tokens.new_full((1,), self.done), *masks, *kept]
        self.play: Recording | None = None

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and last hidden states, as the model's own code gives them."""
        if self.play is None:
            self.play = self.recorder.recording(self.model, self.function, self.inputs)
            self.inputs = self.play.take(self.inputs)
        its_tokens, place, own_mask, *_ = self.inputs
        its_tokens.copy_(tokens[:, None])
        place.fill_(self.done)
        own_mask[..., self.done] = 0
        self.done += 1
        return self.play(*self.inputs)

    @kept_tensors()
    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows."""
        tokens, place, *others = self.inputs
        self.inputs = [tokens[rows], place.clone(), *(x[rows] for x in others)]
        self.play = None


@torch.no_grad()
def record(step: Step, inputs: list[Tensor]) -> Step:
    """Records a function's tensor operations.

    Args:
        step: The function; what it does may depend on the shapes of its inputs alone.
        inputs: What to call it with; those that it writes to are written to.

    Returns:
        A function of inputs of the same shapes; the same where it depends on more than shapes.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is recorded being fixed, which is the point
        try:
            graph: Any = make_fx(step)(*inputs)
            # both would hold the inputs, all keys and values, for as long as there is a recording
            for node in graph.graph.nodes:
                node.meta.clear()
            recorded: Step = torch.jit.trace(
                graph, tuple(inputs), check_trace=False, strict=False, _store_inputs=False
            )
        except RuntimeError:
            return step
    return recorded


def grown(x: Tensor, size: int) -> Tensor:
    """A copy with zeros put on along the third dimension, up to a size."""
    bigger = x.new_zeros(*x.shape[:2], size, x.shape[3])
    bigger[:, :, : x.shape[2]] = x
    return bigger


def closed(mask: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: nothing where a mask is True, else what shuts out.

    Args:
        mask: ``[r, n]``.
        size: How many keys there will be.
        dtype: Of the keys.

    Returns:
        ``[r, 1, 1, size]``.
    """
    added = torch.full((len(mask), 1, 1, size), torch.finfo(dtype).min, dtype=dtype).to(mask.device)
    added[:, 0, 0, : mask.shape[1]].masked_fill_(mask.bool(), 0)
    return added


def padded(size: int) -> int:
    """The next multiple of :data:`WIDTH`."""
    return -(-size // WIDTH) * WIDTH

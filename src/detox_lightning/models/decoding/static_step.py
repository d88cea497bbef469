"""A decode step as a fixed sequence of tensor operations, without the model's Python code.

Most of the time of a small model's decode step is spent in Python code that arrives at the same
operations every time. On a CPU the step is therefore recorded once for each shape of batch and then
replayed (see :mod:`.recorded_step`); on a GPU it is captured as a CUDA graph (see
:mod:`.cuda_graph`).
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.cuda_graph import MAX_CAPTURED, CapturedStep
from detox_lightning.models.decoding.decoder import CachedDecoder, Step, writable_tensors
from detox_lightning.models.decoding.recorded_step import MAX_RECORDED, RecordedStep

KEY_BLOCK = 64  # keys are padded to multiples of this: the prompts', and the room for responses


class StaticSteps:
    """The static steps of a model, by active adapters, autocast and shapes of their inputs.

    Attributes:
        capturing: Whether steps are captured; None: on a GPU only.
    """

    def __init__(self, capturing: bool | None = None) -> None:
        self.capturing = capturing
        self.captured: dict[Any, CapturedStep] = {}
        self.recorded: dict[Any, RecordedStep] = {}

    def captures(self, model: Any) -> bool:
        """Whether a model's step is captured rather than recorded."""
        wanted = model.device.type == "cuda" if self.capturing is None else self.capturing
        return wanted and _is_static(model)

    def take_over(self, decoder: CachedDecoder, limit: int) -> "CachedDecoder | StaticDecoder":
        """A decoder that continues with static steps; the same decoder if its model has none.

        The decoder has taken the first of at most ``limit`` steps. Its model's weights must not
        change until the last.
        """
        from transformers.cache_utils import DynamicLayer

        layers = [*decoder.cache.layers, *decoder.prompt_cache.layers]
        if not all(type(layer) is DynamicLayer for layer in layers):  # some keep only a window
            return decoder
        if not (self.captures(decoder.model) or _can_record(decoder.model)):
            return decoder
        step = decoder.static_step()
        return decoder if step is None else StaticDecoder(self, decoder, step, limit)

    def bind(self, model: Any, step: Step, inputs: list[Tensor]) -> tuple[Step, list[Tensor]]:
        """The static step for inputs of these shapes, and the tensors to call it with.

        For a captured step these are its own tensors, filled from ``inputs``; else ``inputs``.
        """
        shapes = tuple((tuple(x.shape), x.dtype, x.device) for x in inputs)
        key = id(model), _active_adapters(model), _autocast_dtype(model), shapes
        if not self.captures(model):
            if key in self.recorded or (len(self.recorded) < MAX_RECORDED and _can_record(model)):
                return self.recorded.setdefault(key, RecordedStep(step)), inputs
        elif key in self.captured and self.captured[key].is_current:
            return self.captured[key], self.captured[key].fill(inputs)
        elif key in self.captured or len(self.captured) < MAX_CAPTURED:
            try:
                self.captured[key] = CapturedStep(step, model, inputs)
                return self.captured[key], inputs
            except Exception as error:  # whatever torch or a driver raises: the step is used
                self.capturing = False
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"the decode step can't be captured and stays slow: {reason}", stacklevel=2
                )
        return step, inputs


class StaticDecoder:
    """Continues a :class:`CachedDecoder` by a static step over copies of its keys and values."""

    @writable_tensors()
    def __init__(self, steps: StaticSteps, decoder: CachedDecoder, step: Step, limit: int):
        self.steps, self.model, self.step = steps, decoder.model, step
        self.length = decoder.mask.shape[1]
        masks, tensors = _with_room(decoder.mask, decoder.cache.layers, self.length + limit - 1)
        if decoder.prompt_mask is not None:
            size = decoder.prompt_mask.shape[1]
            mask, others = _with_room(decoder.prompt_mask, decoder.prompt_cache.layers, size)
            masks, tensors = masks + mask, tensors + others
        tokens = decoder.mask.new_zeros(len(decoder.mask), 1, dtype=torch.long)
        self.inputs = [tokens, tokens.new_full((1,), self.length), *masks, *tensors]
        self.static_step: Step | None = None

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends tokens ``[r]``; the next call may overwrite what is returned."""
        if self.static_step is None:
            self.static_step, self.inputs = self.steps.bind(self.model, self.step, self.inputs)
        token_ids, position, mask, *_ = self.inputs
        token_ids.copy_(tokens[:, None])
        position.fill_(self.length)
        mask[..., self.length] = 0
        self.length += 1
        return self.static_step(*self.inputs)

    @writable_tensors()
    def select(self, rows: Tensor) -> None:
        """Keeps only ``rows``, in this order; an index may repeat."""
        tokens, position, *others = self.inputs
        self.inputs = [tokens[rows], position.clone(), *(x[rows] for x in others)]
        self.static_step = None


def _is_static(model: Any) -> bool:
    """Whether a model's decode step has the same operations at every position."""
    return (
        model._can_compile_fullgraph
        and model.config._attn_implementation in ("sdpa", "eager")
        and model.dtype.is_floating_point
        and getattr(model, "hf_quantizer", None) is None
        and not hasattr(model, "unshard")  # FSDP's weights move
    )


def _can_record(model: Any) -> bool:
    return _is_static(model) and model.device.type == "cpu" and _autocast_dtype(model) is None


def _autocast_dtype(model: Any) -> torch.dtype | None:
    """Autocast dtype in force on the model's device, or None."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _active_adapters(model: Any) -> tuple[Any, ...]:
    """Which adapters a model's layers use, and how; a static step is only valid for these."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return tuple(
        (layer.disable_adapters, tuple(layer.active_adapters), getattr(layer, "merged", False))
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
    )


def _with_room(mask: Tensor, layers: list[Any], size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Copies keys and values into tensors ``[r, h, size, d]``, ``size`` rounded up to whole blocks.

    Also gives the mask ``[r, 1, 1, size]`` that is added to attention scores: 0 where ``mask``
    (``[r, n]``) is True, else the dtype's lowest number.
    """
    size = -(-size // KEY_BLOCK) * KEY_BLOCK
    tensors = []
    for x in (x for layer in layers for x in (layer.keys, layer.values)):
        tensors.append(x.new_zeros(*x.shape[:2], size, x.shape[3]))
        tensors[-1][:, :, : x.shape[2]] = x
    added = tensors[0].new_full((len(mask), 1, 1, size), torch.finfo(tensors[0].dtype).min)
    added[:, 0, 0, : mask.shape[1]].masked_fill_(mask.bool(), 0)
    return [added], tensors

"""A decode step as a fixed sequence of tensor operations, without the model's Python code.

Most of the time of a small model's decode step is spent in Python code that arrives at the same
operations every time. On a CPU the step is therefore recorded once for each shape of batch and then
replayed (see :mod:`.recorded_step`); on a GPU it is captured as a CUDA graph (see
:mod:`.cuda_graph`).
"""

import gc
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from detox_lightning.models.decoding.arena import Arena
from detox_lightning.models.decoding.decoder import CachedDecoder, Step, has_bert_decoder
from detox_lightning.models.decoding.merging import MergedWeights
from detox_lightning.models.decoding.recorded_step import MAX_RECORDED, RecordedStep
from detox_lightning.models.decoding.static_decoder import CapturedDecoder, StaticDecoder

P = ParamSpec("P")
T = TypeVar("T")


class StaticSteps:
    """The static steps of a model, by active adapters, autocast and shapes of their inputs.

    Attributes:
        capturing: Whether steps are captured; None: on a GPU only.
        arena: Captured steps and the memory that they work on.
        captured: The captured steps.
        merged_weights: Merged weights, which captured steps find at the same addresses.
        recorded: The recorded steps.
    """

    def __init__(self, capturing: bool | None = None) -> None:
        self.capturing = capturing
        self.arena = Arena()
        self.captured = self.arena.steps
        self.merged_weights: MergedWeights = {}
        self.recorded: dict[Any, RecordedStep] = {}

    def captures(self, model: Any) -> bool:
        """Whether a model's step is captured rather than recorded."""
        wanted = model.device.type == "cuda" if self.capturing is None else self.capturing
        return wanted and _is_static(model)

    def take_over(
        self, decoder: CachedDecoder, rows: Tensor, limit: int, longest: int = 0
    ) -> "CachedDecoder | StaticDecoder":
        """A decoder that continues with static steps; the same decoder if its model has none.

        Args:
            decoder: It has taken the first step with distinct prompts, and is used up by this. Its
                model's weights must not change until the last step.
            rows: ``[b]`` the index of each row's prompt.
            limit: The most tokens of a response.
            longest: The most tokens of any response of a run. Captured steps have room for them, so
                that all limits share their shapes.
        """
        from transformers.cache_utils import DynamicLayer

        caches = decoder.cache, decoder.prompt_cache
        keeps_all = all(type(layer) is DynamicLayer for cache in caches for layer in cache.layers)
        captures, step = self.captures(decoder.model), None
        if not captures:  # perhaps since a capture has failed
            self.free()
        if keeps_all and (captures or _can_record(decoder.model)):  # some keep only a window
            step = decoder.static_step()
        if captures and step is not None:
            room = max(limit, longest)
            return CapturedDecoder(self.bind, self.arena, decoder, step, rows, room)
        decoder.select(rows)
        return decoder if step is None else StaticDecoder(self.bind, decoder, step, limit)

    def bind(self, model: Any, step: Step, inputs: list[Tensor]) -> Step:
        """The static step for inputs of these shapes, or the step itself."""
        shapes = tuple((tuple(x.shape), x.dtype, x.device) for x in inputs)
        key = id(model), _active_adapters(model), _autocast_dtype(model), shapes
        if not self.captures(model):
            if key in self.recorded or (len(self.recorded) < MAX_RECORDED and _can_record(model)):
                return self.recorded.setdefault(key, RecordedStep(step))
            return step
        try:
            return self.arena.step(key, step, model, inputs)
        except torch.OutOfMemoryError:
            raise  # to retried_uncaptured
        except Exception as error:  # whatever torch or a driver raises: the step is used
            self.capturing = False
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"the decode step can't be captured and stays slow: {reason}", stacklevel=2
            )
        return step

    def free(self) -> None:
        """Gives back the memory that captured steps keep, if there are any."""
        if not self.arena.size:
            return
        self.arena.clear()
        self.merged_weights.clear()
        gc.collect()
        torch.cuda.empty_cache()


def retried_uncaptured(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Has a method of an object with a ``policy`` called once more if a GPU's memory runs out.

    The memory of captured steps is freed first, and from then on none is captured. The method may
    be interrupted anywhere, and repeated.
    """

    @wraps(method)
    def retrying(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        steps = self.policy.static_steps
        try:
            return method(self, *args, **options)
        except torch.OutOfMemoryError:
            if not steps.arena.size:
                raise
        # outside the block above, in which the error keeps the interrupted work's memory alive
        steps.free()
        steps.capturing = False
        warnings.warn(
            "out of memory: to save memory, decode steps are no longer captured as CUDA graphs, "
            "which makes rollouts and evaluations slow; a lower data.batch_size or "
            "model.evaluation.batch_size avoids that",
            stacklevel=2,
        )
        return method(self, *args, **options)

    return retrying


def _is_static(model: Any) -> bool:
    """Whether a model's decode step has the same operations at every position."""
    return (
        (model._can_compile_fullgraph or has_bert_decoder(model))
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

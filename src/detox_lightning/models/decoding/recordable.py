"""Whether a model's decode step can be recorded, and what else than shapes it depends on."""

from typing import Any

import torch


def can_record(model: Any, to_capture: bool = False) -> bool:
    """Whether a model's decode step is the same operations whatever the position.

    Args:
        model: From transformers.
        to_capture: Whether it is to be captured, which holds for any device and under autocast.
    """
    return (
        model._can_compile_fullgraph
        and model.config._attn_implementation in ("sdpa", "eager")
        and model.dtype.is_floating_point
        and (to_capture or (model.device.type == "cpu" and autocast(model) is None))
        and getattr(model, "hf_quantizer", None) is None
        and not hasattr(model, "unshard")  # FSDP's weights move
    )


def autocast(model: Any) -> torch.dtype | None:
    """The precision that a model's operations are cast to by now, if they are.

    Args:
        model: From transformers.
    """
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def active(model: Any) -> tuple[Any, ...]:
    """Which adapters a model's layers use, and how: a recording holds it as it was.

    Args:
        model: From transformers, with adapters or without.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return tuple(
        (layer.disable_adapters, tuple(layer.active_adapters), getattr(layer, "merged", False))
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
    )


def is_plain(layers: list[Any]) -> bool:
    """Whether a cache's layers keep all keys and values, not those in a window alone."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in layers)

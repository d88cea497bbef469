"""Adapters merged into their base for as long as nothing learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside the block the active LoRA adapter is part of the weights, which makes a step shorter.

    Afterwards the base holds the very tensors that it held before. What can't be merged (a
    quantized base, one of lower precision than the adapter, adapters that are switched off) is left
    as it is.

    Args:
        model: A ``PeftModel``, or any other.
    """
    layers = [layer for layer in model.modules() if can_merge(layer)]
    held = [(layer.get_base_layer(), dict(weights(layer.get_base_layer()))) for layer in layers]
    try:
        with torch.no_grad():
            for layer, (base, tensors) in zip(layers, held, strict=True):
                for name, tensor in tensors.items():
                    getattr(base, name).data = tensor.clone()
                layer.merge()
        yield
    finally:
        for layer, (base, tensors) in zip(layers, held, strict=True):
            for name, tensor in tensors.items():
                getattr(base, name).data = tensor
            layer.merged_adapters.clear()


def can_merge(layer: Any) -> bool:
    """Whether a layer has an active LoRA adapter on plain weights."""
    from peft.tuners.lora import LoraLayer

    return (
        isinstance(layer, LoraLayer)
        and not layer.disable_adapters
        and not layer.merged
        and {x.dtype for _, x in weights(layer.get_base_layer())} == {precision(layer)}
    )


def precision(layer: Any) -> torch.dtype | None:
    """That of a layer's active adapter; None: it has none of that name."""
    for name in layer.active_adapters:
        for part in (layer.lora_A, layer.lora_embedding_A):
            if name in part:
                return next(iter(part[name].parameters()), part[name]).dtype
    return None


def weights(base: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a layer's own parameters."""
    for name, parameter in base.named_parameters(recurse=False):
        yield name, parameter.data

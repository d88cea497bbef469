"""Adapters merged into their base for as long as nothing learns."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.cuda_graph import kept_tensors

Kept = dict[tuple[str, torch.dtype, torch.device], Tensor]
"""Merged weights, by name and kind."""


@contextmanager
def merged(model: Any, kept: Kept | None = None) -> Iterator[None]:
    """Inside the block the active LoRA adapter is part of the weights, which makes a step shorter.

    Afterwards the base holds the very tensors that it held before. What can't be merged, or not
    exactly, is left as it is: a quantized base, one of lower precision than the adapter, autocast,
    weights that several layers share, adapters that are switched off.

    Args:
        model: A ``PeftModel``, or any other.
        kept: Merged weights, which are left in it for next time: they are then at the same
            addresses. None: they are made anew each time.
    """
    held: list[tuple[Any, dict[str, Tensor]]] = []
    try:
        with kept_tensors():
            for place, layer in mergeable(model):
                base = layer.get_base_layer()
                tensors = {name: x.data for name, x in base.named_parameters(recurse=False)}
                held.append((layer, tensors))
                for name, tensor in tensors.items():
                    getattr(base, name).data = tensor.clone()
                try:
                    layer.merge()
                except (RuntimeError, ValueError, NotImplementedError):  # peft can't: beside it is
                    restore(*held.pop())
                    continue
                if kept is not None:
                    keep(kept, place, base)
        yield
    finally:
        for layer, tensors in held:
            restore(layer, tensors)


def keep(kept: Kept, place: str, base: Any) -> None:
    """Puts a layer's merged weights where they were the last time.

    Args:
        kept: See :func:`merged`.
        place: The layer's name.
        base: Its base, with merged weights.
    """
    for name, parameter in base.named_parameters(recurse=False):
        key = f"{place}.{name}", parameter.dtype, parameter.device
        parameter.data = kept.setdefault(key, parameter.data).copy_(parameter.data)


def restore(layer: Any, tensors: dict[str, Tensor]) -> None:
    """Puts a layer's own tensors back.

    Args:
        layer: Of peft.
        tensors: Its base's, by name.
    """
    for name, tensor in tensors.items():
        getattr(layer.get_base_layer(), name).data = tensor
    layer.merged_adapters.clear()


def mergeable(model: Any) -> list[tuple[str, Any]]:
    """The layers with an active LoRA adapter on plain weights of their own, and their names.

    Args:
        model: See :func:`merged`.
    """
    from peft.tuners.lora import LoraLayer

    if torch.is_autocast_enabled(next(model.parameters()).device.type):
        return []
    users = Counter(
        id(x) for layer in model.modules() for x in layer._parameters.values() if x is not None
    )
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        and not layer.disable_adapters
        and not layer.merged
        and all(
            x.dtype == precision(layer) and users[id(x)] == 1
            for x in layer.get_base_layer().parameters(recurse=False)
        )
    ]


def precision(layer: Any) -> torch.dtype | None:
    """That of a layer's active adapter; None: it has none of that name."""
    for name in layer.active_adapters:
        if name in layer.lora_A:
            a = layer.lora_A[name]
            return a.dtype if isinstance(a, Tensor) else a.weight.dtype  # AdaLoRA's is a tensor
        if name in layer.lora_embedding_A:
            return layer.lora_embedding_A[name].dtype
    return None

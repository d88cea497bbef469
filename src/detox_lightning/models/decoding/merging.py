"""Merges adapters into their base while responses are generated."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from detox_lightning.models.decoding.decoder import writable_tensors
from detox_lightning.models.light_adapters import KeptTensors, cast_adapters

MergedWeights = KeptTensors


@contextmanager
def merged(model: Any, buffers: MergedWeights | None = None) -> Iterator[None]:
    """Inside the block the active LoRA adapter is merged into the weights; a step is then quicker.

    Afterwards the base holds the same tensors as before. Layers that can't be merged exactly are
    left alone: quantized bases, a base with another dtype than its adapter, weights that several
    layers share, disabled adapters, and all layers under autocast, for which see
    :func:`cast_adapters`.

    Args:
        model: A ``PeftModel``, or any other.
        buffers: Tensors to hold the merged weights, so that their addresses stay the same; the
            first call adds them. None: new tensors each time.
    """
    replaced: list[tuple[Any, dict[str, Tensor]]] = []
    try:
        with writable_tensors():
            for path, layer in _mergeable(model):
                base = layer.get_base_layer()
                tensors = {name: x.data for name, x in base.named_parameters(recurse=False)}
                replaced.append((layer, tensors))
                for name, tensor in tensors.items():
                    getattr(base, name).data = tensor.clone()
                try:
                    layer.merge()
                except (RuntimeError, ValueError, NotImplementedError):  # peft can't merge it
                    _restore(*replaced.pop())
                    continue
                for name, parameter in base.named_parameters(recurse=False):
                    if buffers is not None:
                        key = f"{path}.{name}", parameter.dtype, parameter.device
                        parameter.data = buffers.setdefault(key, parameter.data).copy_(parameter)
        with cast_adapters(model, buffers):
            yield
    finally:
        for layer, tensors in replaced:
            _restore(layer, tensors)


def _restore(layer: Any, tensors: dict[str, Tensor]) -> None:
    """Puts a base layer's own tensors back."""
    for name, tensor in tensors.items():
        getattr(layer.get_base_layer(), name).data = tensor
    layer.merged_adapters.clear()


def _mergeable(model: Any) -> list[tuple[str, Any]]:
    """The layers with an active LoRA adapter on unquantized weights of their own, with paths."""
    from peft.tuners.lora import LoraLayer

    if torch.is_autocast_enabled(next(model.parameters()).device.type):
        return []
    users = Counter(
        id(x) for layer in model.modules() for x in layer._parameters.values() if x is not None
    )
    return [
        (path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        and not layer.disable_adapters
        and not layer.merged
        and all(
            x.dtype == _adapter_dtype(layer) and users[id(x)] == 1
            for x in layer.get_base_layer().parameters(recurse=False)
        )
    ]


def _adapter_dtype(layer: Any) -> torch.dtype | None:
    """The dtype of a layer's active adapter; None if the layer has no active adapter."""
    parts = {**layer.lora_embedding_A, **layer.lora_A}
    found = [parts[name] for name in layer.active_adapters if name in parts]
    # a linear layer, or a tensor: of an embedding, and of AdaLoRA
    return getattr(found[0], "weight", found[0]).dtype if found else None

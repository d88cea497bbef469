"""A shorter way through plain LoRA layers: fewer operations, and the same numbers.

In bf16-mixed, peft casts each input to float32 and back, and both matrices of the adapter anew in
each call; and it multiplies by a scale that is often 1. On a GPU, which waits for the host to
launch each operation, this takes longer than the adapter's products.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from detox_lightning.models.decoding.decoder import writable_tensors

KeptTensors = dict[tuple[str, torch.dtype, torch.device], Tensor]
"""Tensors that keep their addresses, by the parameter's name, dtype and device."""


class _Adapter(NamedTuple):
    """The active adapter of a LoRA layer; ``scale`` times ``up`` times ``down`` is its weight."""

    down: Tensor
    up: Tensor
    scale: float


@contextmanager
def light_adapters(model: Any) -> Iterator[None]:
    """Inside the block, plain LoRA layers have fewer operations; results stay, to the last bit.

    Gradients do so, too. Meanwhile the model's adapters must not be switched. Layers of DoRA and
    other kinds, with dropout, or of another dtype than their base are left alone.
    """
    with _replaced(model, lambda path, adapter: adapter):
        yield


@contextmanager
def cast_adapters(model: Any, kept: KeptTensors | None) -> Iterator[None]:
    """Inside the block, plain LoRA layers have adapters that were cast to autocast's dtype before.

    Results equal those of :func:`light_adapters` to the last bit if the scale is a power of two,
    else to rounding; there are no gradients. Without autocast, nothing changes.

    Args:
        model: A ``PeftModel``, or any other.
        kept: Holds the cast adapters, so that their addresses stay the same; the first call adds
            them. None: new tensors each time.
    """
    device = next(model.parameters()).device
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    dtype = torch.get_autocast_dtype(device.type)

    @writable_tensors()
    def cast(path: str, adapter: _Adapter) -> _Adapter:
        down, up = adapter.down.to(dtype), (adapter.up * adapter.scale).to(dtype)
        if kept is not None:
            down = kept.setdefault((f"{path}.lora_A", dtype, device), down).copy_(down)
            up = kept.setdefault((f"{path}.lora_B", dtype, device), up).copy_(up)
        return _Adapter(down, up, 1)

    with _replaced(model, cast):
        yield


@contextmanager
def _replaced(model: Any, change: Callable[[str, _Adapter], _Adapter]) -> Iterator[None]:
    """Inside the block, plain LoRA layers compute with what ``change`` makes of their adapters."""
    layers = []
    try:
        for path, layer in model.named_modules():
            if (adapter := _plain_adapter(layer)) is not None:
                layers.append(layer)
                layer.forward = _forward(layer.base_layer, change(path, adapter))
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(base: nn.Module, adapter: _Adapter) -> Callable[[Tensor], Tensor]:
    down, up, scale = adapter

    def forward(x: Tensor) -> Tensor:
        result = base(x)
        added = linear(linear(x, down), up)
        return result + (added if scale == 1 else added * scale)

    return forward


def _plain_adapter(layer: Any) -> _Adapter | None:
    """The active adapter of a layer, if that is a plain LoRA layer with a single one."""
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear or layer.disable_adapters or layer.merged:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or names[0] in layer.lora_variant:
        return None
    (name,) = names
    down, up, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    drops = layer.training and not isinstance(dropout, nn.Identity)
    if drops or not type(down) is type(up) is nn.Linear or up.bias is not None:
        return None
    weight = layer.base_layer.weight
    if weight.dtype != down.weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        return None
    return _Adapter(down.weight, up.weight, layer.scaling[name])

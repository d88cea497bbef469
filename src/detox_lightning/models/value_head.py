"""The value head."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear layer from a hidden state to the expected return, in float32 and 0 at first.

    Args:
        hidden_size: ``d`` of the decoder's hidden states.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def of(cls, model: Any) -> Any:
        """Makes the value head of a language model."""
        # the width of the head's input, which may be narrower than the layers
        width = getattr(model.get_output_embeddings(), "in_features", None)
        return cls(width or model.config.get_text_config(decoder=True).hidden_size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # stays float32 when a whole module is cast: returns need the digits
        return super()._apply(lambda x: _in_float32(x, fn(x)), recurse)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the values ``[m, t]``, in float32, of hidden states ``[m, t, d]`` of any type."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.linear(hidden.float()).squeeze(-1)


def learned(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters that learn in a value head or a critic, by name."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def restore(module: nn.Module, saved: dict[str, Tensor] | None) -> bool:
    """Loads what :func:`learned` returned if the shapes match; returns whether it did."""
    shapes = {name: value.shape for name, value in learned(module).items()}
    if saved is None or {name: value.shape for name, value in saved.items()} != shapes:
        return False
    module.load_state_dict(saved, strict=False)
    return True


def _in_float32(before: Tensor, after: Tensor) -> Tensor:
    return before.to(after.device) if after.dtype != torch.float32 else after

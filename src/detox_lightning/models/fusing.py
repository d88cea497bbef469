"""Parts of a model replaced by ones that compute the same in one go."""

from typing import Any

from torch import nn


def fuse_activations(model: Any) -> Any:
    """Lets torch compute the GELU that transformers writes out step by step.

    Written out, each of eight steps is a tensor of the feed-forward layer's size, most of which
    are kept for the backward pass. Results differ by rounding.

    Args:
        model: From transformers; changed in place.

    Returns:
        The model.
    """
    from transformers.activations import NewGELUActivation

    for layer in list(model.modules()):
        for name, part in list(layer.named_children()):
            if isinstance(part, NewGELUActivation):
                setattr(layer, name, nn.GELU(approximate="tanh"))
    return model

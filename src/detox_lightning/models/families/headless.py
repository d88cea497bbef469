"""A language model's head, replaced by what needs no logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from detox_lightning.models.families.base import Family

HeadFunction = Callable[[Tensor, Tensor, Tensor | None], Any]
"""Takes the head's place: from hidden states ``[m, t, d]``, its weight ``[V, d]`` and bias ``[V]``
or None."""

BEHIND = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of what some models do to their logits, which a dry run may be too small to show."""


def has_plain_head(model: Any, family: "Family") -> bool:
    """Whether all that the model's head does is multiply and add, and nothing of it learns.

    Args:
        model: The language model.
        family: What kind of model it is.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
        return False
    if any(parameter.requires_grad for parameter in layer.parameters()):
        return False
    config = model.config.get_text_config(decoder=True)
    if any(getattr(config, name, None) not in (None, 1) for name in BEHIND):
        return False
    two = torch.zeros(1, 2, dtype=torch.long, device=layer.weight.device)
    with torch.no_grad():
        given = model, two, torch.ones_like(two), two
        logits, _ = family.forward(*given)
        ours, _ = family.forward(*given, head=nn.functional.linear)
    return torch.allclose(ours, logits, rtol=1e-2, atol=1e-3)


@contextmanager
def replaced_head(model: Any, head: HeadFunction | None) -> Iterator[list[Any]]:
    """Inside the block, something takes the place of a model's head.

    Args:
        model: From transformers; its head is linear.
        head: What; None: nothing does.

    Yields:
        A list that gets what ``head`` gives.
    """
    given: list[Any] = []
    if head is None:
        yield given
        return
    layer = model.get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        biases = [
            x for x in (layer.bias, getattr(model, "final_logits_bias", None)) if x is not None
        ]
        given.append(head(hidden, layer.weight, sum(biases).flatten() if biases else None))
        return hidden.new_zeros(1, 1)

    layer.forward = forward
    try:
        yield given
    finally:
        del layer.forward

"""Finds weights that are NaN or infinite: a model with them says nothing, and says so nowhere."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from detox_lightning.errors import InputError


def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold a number that is NaN or infinite.

    Waits for the device once, if there are none. Quantized tensors hold none.

    Args:
        named: Names and tensors, of any shape.
    """
    tensors = {
        name: x.detach()
        for name, x in named
        if x.is_floating_point() and x.element_size() > 1 and x.numel() and not x.is_meta
    }
    largest = torch.nn.utils.get_total_norm(tensors.values(), norm_type=math.inf)
    if math.isfinite(float(largest)):
        return []
    return [name for name, x in tensors.items() if not x.isfinite().all()]


def refuse_broken(
    named: Iterable[tuple[str, Tensor]], what: str, remedy: str, kind: type[Exception] = InputError
) -> None:
    """Refuses weights that are not finite.

    Args:
        named: Names and weights.
        what: Whose they are: a flag or a file, for the message.
        remedy: What helps.
        kind: What is raised.

    Raises:
        InputError: If there are any; or another ``kind``.
    """
    if broken := not_finite(named):
        count = f"{len(broken)} tensors have" if len(broken) > 1 else "a tensor has"
        raise kind(f"{what}: {count} weights that are NaN or infinite ({broken[0]}): {remedy}")


def refuse_broken_model(flag: str, name: str, model: torch.nn.Module) -> None:
    """Refuses a model that was opened, if its weights are not finite.

    Args:
        flag: That named it, or what it is.
        name: Its name.
        model: The model.

    Raises:
        InputError: If they aren't.
    """
    remedy = "training has broken it, or the file is damaged; give another one"
    refuse_broken(model.named_parameters(), f"{flag} {name!r}", remedy)

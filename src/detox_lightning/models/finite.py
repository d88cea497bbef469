"""Checks for weights that are NaN or infinite, which make a model's output noise without a word."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from detox_lightning.errors import InputError


def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Returns the names of the tensors that hold a NaN or an infinite number.

    Waits for the device once, if there are none. Quantized tensors hold none.
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


def check_finite(
    named: Iterable[tuple[str, Tensor]], what: str, remedy: str, kind: type[Exception] = InputError
) -> None:
    """Refuses weights that are not finite.

    Args:
        named: Names and weights.
        what: Flag or file that they come from, for the message.
        remedy: What helps.
        kind: Exception that is raised.

    Raises:
        InputError: If there are any; or another ``kind``.
    """
    if broken := not_finite(named):
        count = f"{len(broken)} tensors have" if len(broken) > 1 else "a tensor has"
        raise kind(f"{what}: {count} weights that are NaN or infinite ({broken[0]}): {remedy}")


def check_finite_model(flag: str, name: str, model: torch.nn.Module) -> None:
    """Refuses a model that was opened by ``name``, given by ``flag``, if it is not finite."""
    remedy = "training has broken it, or the file is damaged; give another one"
    check_finite(model.named_parameters(), f"{flag} {name!r}", remedy)

"""Numbers that can't be trained with: precisions that lose steps, weights that are not finite."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from detox_lightning.errors import InputError

SUPPORTED = ("32-true", "32", "None", "bf16-mixed", "bf16")  # Lightning's names
REMEDY = "Give bf16-mixed or 32-true"
OVERFLOW = (
    "T5 and its family overflow in float16, and others' gradients would be clipped at the wrong "
    f"size. {REMEDY}"
)
# the beginning of a precision's name, and what is wrong with that precision
REASONS = {
    "16": OVERFLOW,
    "transformer-engine-float16": OVERFLOW,
    "bf16-true": "small steps are lost in weights that are held in bfloat16, adapters included, "
    f"and figures are rounded. {REMEDY}; model.weights.dtype=bfloat16 halves a frozen base",
    **dict.fromkeys(
        ("nf4", "fp4", "int8"),
        "a plugin would quantize what is trained, too. Give model.weights.quantization, which "
        f"holds the frozen base so. {REMEDY}",
    ),
    "64": "log-probabilities, scores and checkpoints are float32 here. Give 32-true",
    "": f"this holds weights in fewer digits than training needs. {REMEDY}",
}


def check_precision(precision: object, flag: str = "trainer.precision") -> None:
    """Refuses to compute in anything but float32, or bfloat16 beside weights in float32.

    Other precisions change the type of whole modules, and torch's default type. In bfloat16, most
    steps of a small learning rate are rounded away. In float16, T5's feed-forward layers overflow,
    and gradients that were scaled for it would be clipped at the wrong size.

    Raises:
        InputError: If the precision, which ``flag`` set, is another one, or torch's default type
            isn't float32.
    """
    name = str(precision)
    if name not in SUPPORTED:
        reason = next(why for prefix, why in REASONS.items() if name.startswith(prefix))
        raise InputError(f"{flag}={name}: {reason}")
    if (default := torch.get_default_dtype()) != torch.float32:
        raise InputError(
            f"torch.set_default_dtype({default}) was called: figures and new weights would be of "
            "that type; take it out, or set torch.float32 again"
        )


def rounds_products(device: torch.device) -> bool:
    """Whether float32 matrices may be multiplied in fewer digits on a device.

    ``torch.set_float32_matmul_precision`` and the flags of torch's backends decide that.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision not in ("none", "ieee")


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

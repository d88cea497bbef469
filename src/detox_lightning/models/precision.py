"""Precisions of computing: those in which training would lose steps are refused."""

import torch

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

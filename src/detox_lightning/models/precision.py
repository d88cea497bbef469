"""In how many digits is computed and held: what is refused, since steps would be lost in it."""

import torch

from detox_lightning.errors import InputError
from detox_lightning.models.loading import Weights

SINGLE = ("32-true", "32", "None")
KNOWN = (*SINGLE, "bf16-mixed", "bf16")  # of Lightning's names
REMEDY = "Give bf16-mixed or 32-true"
# how a precision's name begins or ends, and what is wrong with it
REASONS = {
    "16": "T5 and its family overflow in float16, and others' gradients would be clipped at the "
    f"wrong size. {REMEDY}",
    "transformer-engine-float16": "T5 and its family overflow in float16, and others' gradients "
    f"would be clipped at the wrong size. {REMEDY}",
    "bf16-true": "small steps are lost in weights that are held in bfloat16, adapters included, "
    f"and figures are rounded. {REMEDY}; model.weights.dtype=bfloat16 halves a frozen base",
    **dict.fromkeys(
        ("nf4", "fp4", "int8"),
        "a plugin would quantize what is trained, too. Give model.weights.quantization, which "
        f"holds the frozen base so. {REMEDY}",
    ),
    "64": "log-probabilities, scores and checkpoints are float32 here. Give 32-true",
}
OTHER = f"this holds weights in fewer digits than training needs. {REMEDY}"


def check_precision(precision: object, flag: str = "trainer.precision") -> None:
    """Refuses to compute in anything but float32, or bfloat16 beside weights in float32.

    Other precisions turn whole modules into another type, and torch's default with it. In bfloat16
    most of a small learning rate's steps are rounded away. T5's feed-forward layers leave float16's
    range, and gradients scaled for float16 would be clipped at the wrong size.

    Args:
        precision: Lightning's ``trainer.precision``.
        flag: What gave it.

    Raises:
        InputError: If it is another one, or torch's default type isn't float32.
    """
    name = str(precision)
    if name not in KNOWN:
        reasons = (why for kind, why in REASONS.items() if name.startswith(kind))
        raise InputError(f"{flag}={name}: {next(reasons, OTHER)}")
    if (default := torch.get_default_dtype()) != torch.float32:
        raise InputError(
            f"torch.set_default_dtype({default}) was called: figures and new weights would be of "
            "that type; take it out, or set torch.float32 again"
        )


def check_trainable_dtype(weights: Weights) -> None:
    """Refuses to train all weights of a model that are held in few digits.

    Args:
        weights: How they would be opened.

    Raises:
        InputError: If they would be quantized, or in another precision than float32.
    """
    if weights.quantization:
        raise InputError(
            f"weights.quantization={weights.quantization}: a quantized base can't be trained; give "
            "lora, or leave quantization null"
        )
    if weights.dtype != "float32":
        raise InputError(
            f"weights.dtype={weights.dtype}: small steps are lost in weights that are trained in "
            "it; give lora, or float32 with trainer.precision=bf16-mixed"
        )

"""What is computed in: float32, or bfloat16 beside weights in float32, and nothing else."""

from collections.abc import Iterator

import pytest
import torch

from detox_lightning.errors import InputError
from detox_lightning.models.precision import check_precision


@pytest.fixture
def double() -> Iterator[None]:
    """Somebody has set torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        *((name, "overflow in float16") for name in ("16-mixed", "16-true", "16", 16)),
        ("transformer-engine-float16", "overflow in float16"),
        ("bf16-true", "small steps are lost"),
        ("transformer-engine", "fewer digits than training needs"),
        ("nf4-dq", "quantize what is trained"),
        *((name, "are float32 here. Give 32-true") for name in ("64-true", "64", 64)),
    ],
)
def test_precisions_that_lose_something_are_refused(precision: object, reason: str) -> None:
    with pytest.raises(InputError, match=f"^trainer.precision={precision}: .*{reason}"):
        check_precision(precision)


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true", "bf16", "bf16-mixed"])
def test_others_are_not(precision: object) -> None:
    check_precision(precision)


def test_torch_s_default_is_float32(double: None) -> None:
    with pytest.raises(InputError, match=r"torch.set_default_dtype\(torch.float64\) was called"):
        check_precision("32-true")

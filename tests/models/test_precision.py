"""What is computed in: float32, or bfloat16 beside weights in float32, and nothing else."""

from collections.abc import Callable, Iterator

import pytest
import torch

from detox_lightning.errors import InputError
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.models.precision import check_precision, rounds_products


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


@pytest.fixture
def set_precision() -> Iterator[Callable[[str], None]]:
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_in_fewer_digits_are_noticed(
    device: str, set_precision: Callable[[str], None]
) -> None:
    for name, rounds in [("high", True), ("medium", True), ("highest", False)]:
        set_precision(name)
        assert rounds_products(torch.device(device)) is rounds


def test_on_a_gpu_it_is_the_gpu_s_flag_that_counts(set_precision: Callable[[str], None]) -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    assert rounds_products(torch.device("cuda"))
    assert not rounds_products(torch.device("cpu"))


def test_log_probabilities_are_then_computed_as_in_half_precision(
    tiny_t5: str, set_precision: Callable[[str], None]
) -> None:
    policy = load_policy(tiny_t5, LoRA(r=4), Sampling())
    assert policy.is_full_precision
    assert policy.records_exactly
    set_precision("high")
    assert not policy.is_full_precision
    assert not policy.records_exactly

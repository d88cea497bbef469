"""LoRA layers with fewer operations: the numbers of peft's own, and no others are touched."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from architectures import save_random
from detox_lightning.models.decoding.merging import merged
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.light_adapters import cast_adapters, light_adapters
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.reference import copy_adapter

IDS = torch.randint(3, 200, (4, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS).bool()
BF16 = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)  # Lightning's bf16-mixed


class Operations(TorchDispatchMode):
    """Counts what a GPU would launch: operations that make or change a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        schema = function._schema
        is_view = any(x.alias_info and not x.alias_info.is_write for x in schema.returns)
        self.count += not is_view and "empty" not in schema.name
        return outputs


def opened(folder: Path, lora: LoRA, name: str = "T5", dtype: Any = torch.float32) -> Policy:
    """One whose adapter says something, on a base in a dtype."""
    policy = load_policy(save_random(name, folder), lora, Sampling(), value_head=False)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape) / 4
            else:
                parameter.data = parameter.data.to(dtype)
    return policy


def results(policy: Policy) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities, and the gradients of what learns."""
    policy.zero_grad()
    logprobs = policy(IDS, MASK, IDS[:, :6]).logprobs
    logprobs.sum().backward()
    return logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.requires_grad]


@pytest.mark.quick(5)
@pytest.mark.parametrize("alpha", [4, 8, 3])
@pytest.mark.parametrize(("dtype", "context"), [("float32", nullcontext()), ("bfloat16", BF16)])
@pytest.mark.parametrize("name", ["T5", "GPT-2", "Llama"])
def test_the_update_s_numbers_stay_to_the_last_bit(
    name: str, dtype: str, context: Any, alpha: int, tmp_path: Path
) -> None:
    """With fewer operations, under bf16-mixed and where the scale is 1."""
    lora = LoRA(r=4, alpha=alpha, dropout=0.3)
    policy = opened(tmp_path, lora, name, getattr(torch, dtype))
    policy.avoids_logits  # noqa: B018  (tried once)
    with context, Operations() as before:
        expected, gradients = results(policy)
    with context, light_adapters(policy.model), Operations() as now:
        found, others = results(policy)
    assert torch.equal(found, expected)
    assert all(map(torch.equal, others, gradients))
    assert gradients[0].abs().max() > 0
    assert (now.count < before.count) == (dtype == "bfloat16" or alpha == 4)
    assert not any("forward" in vars(layer) for layer in policy.modules())


@pytest.mark.parametrize("kind", ["two adapters", "reference", "adapter off"])
def test_the_active_adapter_is_used(kind: str, tmp_path: Path) -> None:
    policy = opened(tmp_path, LoRA(r=4, alpha=8))
    copy_adapter(policy.model, policy.family)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".reference." in name:
                parameter += 1
    model = policy.model
    if kind == "two adapters":
        model.base_model.set_adapter(["default", "reference"])
    off = model.disable_adapter() if kind == "adapter off" else nullcontext()
    with policy.reference(kind == "reference"), off:
        expected = policy(IDS, MASK, IDS[:, :6]).logprobs
        with light_adapters(model):
            replaced = sum("forward" in vars(layer) for layer in model.modules())
            found = policy(IDS, MASK, IDS[:, :6]).logprobs
    assert torch.equal(found, expected)
    assert bool(replaced) == (kind == "reference")


OTHERS = {
    "DoRA": {"use_dora": True},
    "biases": {"lora_bias": True},
    "rsLoRA": {"use_rslora": True},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_only_plain_adapters_are_replaced(kind: str, tmp_path: Path) -> None:
    policy = opened(tmp_path, LoRA(r=4, alpha=8, options=OTHERS[kind]))
    expected, gradients = results(policy)
    with light_adapters(policy.model):
        replaced = sum("forward" in vars(layer) for layer in policy.modules())
        found, others = results(policy)
    assert torch.equal(found, expected)
    assert all(map(torch.equal, others, gradients))
    assert bool(replaced) == (kind == "rsLoRA")


def test_dropout_and_a_base_of_another_dtype_stay(tmp_path: Path) -> None:
    """Dropout draws, and without autocast the adapter's product is float32."""
    policy = opened(tmp_path / "half", LoRA(r=4), dtype=torch.bfloat16)
    trained = opened(tmp_path / "trained", LoRA(r=4, dropout=0.5))
    trained.model.train()
    for model in (policy.model, trained.model):
        with light_adapters(model):
            assert not any("forward" in vars(layer) for layer in model.modules())


def test_an_error_inside_leaves_the_layers_as_they_were(tmp_path: Path) -> None:
    policy = opened(tmp_path, LoRA(r=4))
    with pytest.raises(KeyError), light_adapters(policy.model):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in policy.modules())


# -- while sampling in bf16-mixed


@contextmanager
def without_light(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        replaced = "detox_lightning.models.decoding.merging.cast_adapters"
        patch.setattr(replaced, lambda *_: nullcontext())
        yield


def logits_of(policy: Policy) -> list[Tensor]:
    """Those of greedy decoding, step by step."""
    logits: list[Tensor] = []

    def kept(x: Tensor, rows: Tensor, step: int) -> Tensor:
        logits.append(x.clone())
        return greedy(x, rows, step)

    policy.generate(policy.encode_prompts(IDS, MASK), kept, 6)
    return logits


@pytest.mark.quick(5)
@pytest.mark.parametrize("capturing", [None, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["T5", "GPT-2", "Llama"])
def test_a_rollout_s_numbers_are_peft_s(
    name: str, dtype: Any, capturing: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, as alpha / r is a power of two; also after the adapter has moved."""
    policy = opened(tmp_path, LoRA(r=4, alpha=8), name, dtype)
    policy.static_steps = StaticSteps(capturing)
    for _ in range(2):
        with BF16, without_light(monkeypatch):
            expected = logits_of(policy)
        with BF16:
            found = logits_of(policy)
        assert len(found) > 1
        assert all(map(torch.equal, found, expected))
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter += 0.5
    assert len(policy.static_steps.merged_weights) == (
        2 * len(lora_layers(policy)) if capturing else 0
    )


def lora_layers(policy: Policy) -> list[Any]:
    return [layer for layer in policy.modules() if hasattr(layer, "lora_A")]


def test_another_scale_is_rounded_elsewhere(tmp_path: Path) -> None:
    """In the matrix, and not in the product: both are within bfloat16's rounding."""
    policy = opened(tmp_path, LoRA(r=4, alpha=3))
    (layer, *_) = lora_layers(policy)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(50, layer.in_features)
    with torch.no_grad(), BF16:
        expected = layer(x)
        with cast_adapters(policy.model, None):
            found = layer(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert not torch.equal(found, expected)
    terms = (x @ down.T).abs() @ (0.75 * up).abs().T  # no sum of these is larger
    # a matrix, a product and a sum are rounded on either side, and peft's scaled product
    bound = 2**-8 * (6 * terms + 3 * expected.float().abs())
    assert ((found.float() - expected.float()).abs() <= bound).all()


def test_a_step_in_bf16_mixed_has_fewer_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five fewer for each of the six layers that a T5's two decoder layers ask in a step."""
    policy = opened(tmp_path, LoRA(r=4, alpha=8), dtype=torch.bfloat16)
    counts = {}
    for is_light in (False, True):
        for limit in (3, 4):
            prompts = policy.encode_prompts(IDS, MASK)
            path = nullcontext() if is_light else without_light(monkeypatch)
            with BF16, path, Operations() as operations:
                policy.generate(prompts, greedy, limit)
            counts[is_light, limit] = operations.count
    plain, light = (counts[kind, 4] - counts[kind, 3] for kind in (False, True))
    assert plain - light == 5 * 6


def test_without_autocast_adapters_are_merged_and_none_is_cast(tmp_path: Path) -> None:
    policy = opened(tmp_path, LoRA(r=4))
    kept: dict[Any, Tensor] = {}
    with merged(policy.model, kept):
        assert not any("forward" in vars(layer) for layer in policy.modules())
    assert not any("lora" in path for path, _, _ in kept)

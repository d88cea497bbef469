"""A compiled step says what the plain one says; compiled for the CPU here, without CUDA graphs."""

import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from architectures import save_random
from detox_lightning.models import compiling, decoding, recording
from detox_lightning.models.compiling import Compiled, addresses
from detox_lightning.models.decoding import Decoded, Pace, decode, read
from detox_lightning.models.lora import LoRA
from detox_lightning.models.merging import merged
from detox_lightning.models.noise import PromptNoise
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.recording import Recorder
from detox_lightning.models.sampling import Sampling, greedy

LIMIT = 40
ROWS = 6
IDS = torch.randint(3, 200, (ROWS, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(11) < torch.tensor([11, 4, 9, 1, 11, 6])[:, None]
GPU = Pace(8, 32)  # as on a GPU: rows are asked for seldom, and so few are not dropped

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for the CPU with g++, which is not here"
)


def like_a_graph(step: Any, inputs: list[Tensor]) -> Any:
    """As a CUDA graph: its inputs are where they were, its outputs are overwritten."""
    given = [x.clone() for x in step(*inputs)]

    def play(*asked: Tensor) -> tuple[Tensor, ...]:
        assert all(x is y for x, y in zip(asked, inputs, strict=True))
        for kept, new in zip(given, step(*inputs), strict=True):
            kept.copy_(new)
        return tuple(given)

    return play


@pytest.fixture(scope="module")
def as_on_a_gpu() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PACES", {"cpu": GPU})
        patch.setattr(recording, "WARM_UP", 3)
        patch.setattr(compiling, "captured", like_a_graph)
        yield patch


@pytest.fixture(scope="module", params=["FLAN-T5", "BART"])
def policy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    as_on_a_gpu: pytest.MonkeyPatch,
) -> Policy:
    """One whose responses end early, and whose step is compiled."""
    torch._dynamo.reset()
    folder = save_random(request.param, tmp_path_factory.mktemp(request.param))
    policy = load_policy(folder, LoRA(r=2), Sampling())
    policy.recorder = Recorder(compiling=True)
    change(policy)
    with torch.no_grad():
        head = policy.base.get_output_embeddings().weight
        head.data = head.data * (0.1 if request.param == "FLAN-T5" else 20)
    return policy


def change(policy: Policy) -> None:
    """As a step of training does."""
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter += torch.randn(parameter.shape)


class Said(NamedTuple):
    ids: Tensor
    logprobs: Tensor
    hidden: Tensor


def said(policy: Policy, plain: bool = False) -> Said:
    """Samples, half of them greedy, and what was noted of them."""
    noise = PromptNoise(0, torch.arange(ROWS), torch.arange(ROWS) % 2)
    choose = Sampling().choose(1, noise)
    if plain:
        with torch.no_grad(), merged(policy.model), pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "PACES", {})
            decoded = decode(policy.base, read(policy.base, IDS, MASK), choose, LIMIT)
    else:
        decoded = policy.generate(policy.read(IDS, MASK), choose, LIMIT)
    return noted(decoded, noise)


def noted(decoded: Decoded, noise: PromptNoise) -> Said:
    ids = decoded.ids
    real = (ids == 1).cumsum(dim=1) - (ids == 1).long() == 0
    logprobs = torch.stack(noise.logprobs[: ids.shape[1]], dim=1)
    return Said(ids, logprobs * real, decoded.hidden * real[..., None])


def check_equal(policy: Policy) -> Said:
    expected, got = said(policy, plain=True), said(policy)
    assert torch.equal(got.ids, expected.ids)
    torch.testing.assert_close(got.logprobs, expected.logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.hidden, expected.hidden, atol=1e-5, rtol=1e-5)
    return got


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@needs_compiler
def test_a_compiled_step_says_what_the_plain_one_says_in_each_rollout(policy: Policy) -> None:
    base = {name: x.clone() for name, x in policy.named_parameters() if "lora_" not in name}
    where = {name: x.data_ptr() for name, x in policy.named_parameters()}
    compiled_before = graphs()
    with torch.inference_mode():  # as in a validation, from which the next goes on
        first = check_equal(policy)
    ends = first.ids.eq(1).any(dim=1)
    assert ends.any()
    (play,) = policy.recorder.recordings.values()
    compiled = play.function
    assert isinstance(compiled, Compiled)
    assert graphs() == compiled_before + 1
    with torch.inference_mode():
        check_equal(policy)
    for _ in range(2):
        change(policy)
        again = check_equal(policy)
    assert again.logprobs.shape != first.logprobs.shape or not torch.equal(*both(first, again))
    assert play.function is compiled
    assert compiled.is_current is False  # the base is itself again
    with merged(policy.model, policy.merged_weights):
        assert compiled.is_current
    assert graphs() == compiled_before + 1
    for name, parameter in policy.named_parameters():
        assert parameter.data_ptr() == where[name], name
        assert "lora_" in name or torch.equal(parameter, base[name]), name


def both(first: Said, again: Said) -> tuple[Tensor, Tensor]:
    return first.logprobs, again.logprobs

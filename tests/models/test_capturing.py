"""A captured step says what the plain one says; on the CPU here, without CUDA graphs."""

import gc
import warnings
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from architectures import save_random
from detox_lightning.models.decoding import arena, cuda_graph, loop
from detox_lightning.models.decoding.arena import ALIGNMENT, Arena
from detox_lightning.models.decoding.cuda_graph import capture, waits_refused
from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.draws import GumbelDraws
from detox_lightning.models.decoding.loop import Decoded, DropPolicy, decode
from detox_lightning.models.decoding.merging import merged
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.decoding.static_decoder import CapturedDecoder, _given_up
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from numerics import EXACT, in_float64

LIMIT = 40
ROWS = 6
IDS = torch.randint(3, 200, (ROWS, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(11) < torch.tensor([11, 4, 9, 1, 11, 6])[:, None]
GPU = DropPolicy(8, 32)  # as on a GPU: rows are asked for seldom, and so few are not dropped


def like_a_graph(step: Any, inputs: list[Tensor], pool: Any) -> Any:
    """As a CUDA graph: its inputs are where they were, its outputs are overwritten."""
    given = [x.clone() for x in step(*inputs)]
    places = [(x.data_ptr(), x.shape, x.dtype) for x in inputs]

    def play(*asked: Tensor) -> tuple[Tensor, ...]:
        assert [(x.data_ptr(), x.shape, x.dtype) for x in asked] == places
        for kept, new in zip(given, step(*asked), strict=True):
            kept.copy_(new)
        return tuple(given)

    return play


@pytest.fixture(scope="module")
def as_on_a_gpu() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "DROP_POLICIES", {"cpu": GPU})
        patch.setattr(cuda_graph, "capture", like_a_graph)
        yield patch


@pytest.fixture(scope="module", params=["FLAN-T5", "BART", "Llama"])
def policy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    as_on_a_gpu: pytest.MonkeyPatch,
) -> Policy:
    """One whose step is captured and whose responses end early; in float64: no ties."""
    folder = save_random(request.param, tmp_path_factory.mktemp(request.param))
    return to_capture(folder, request.param == "BART").double()


def to_capture(folder: str, is_bart: bool = False, weights: Weights = Weights()) -> Policy:  # noqa: B008
    policy = load_policy(ModelSource(folder, weights=weights), LoRA(r=2), Sampling())
    policy.static_steps = StaticSteps(capturing=True)
    torch.manual_seed(1)
    change(policy)
    with torch.no_grad():
        if is_bart:
            policy.base.model.shared.weight.mul_(10)
            policy.base.final_logits_bias[0, 1] = 3
        else:
            weight = policy.base.lm_head.weight
            weight.mul_(0.1 / weight.std())
            weight[1].mul_(12)
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


def read(policy: Policy, rows: int = ROWS) -> EncodedPrompts:
    turned = (1,) if policy.family.padding_side == "left" else ()
    prompts = policy.encode_prompts(IDS.flip(turned), MASK.flip(turned))
    return prompts.select(torch.arange(rows) % ROWS)


def said(policy: Policy, plain: bool = False, rows: int = ROWS) -> Said:
    """Samples, half of them greedy, and what was noted of them."""
    noise = GumbelDraws(0, torch.arange(rows), torch.arange(rows) % 2)
    choose, prompts = Sampling().choose([1], noise), read(policy, rows)
    if plain:
        with torch.no_grad(), merged(policy.model), pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "DROP_POLICIES", {})
            decoded = decode(policy.base, policy.family, prompts, choose, LIMIT)
    else:
        decoded = policy.generate(prompts, choose, LIMIT)
    return noted(decoded, noise)


def noted(decoded: Decoded, noise: GumbelDraws) -> Said:
    ids = decoded.ids
    real = (ids == 1).cumsum(dim=1) - (ids == 1).long() == 0
    logprobs = torch.stack(noise.logprobs[: ids.shape[1]], dim=1)
    return Said(ids, logprobs * real, decoded.hidden * real[..., None])


def check_equal(policy: Policy, rows: int = ROWS) -> Said:
    with in_float64():
        expected, got = said(policy, plain=True, rows=rows), said(policy, rows=rows)
    assert torch.equal(got.ids, expected.ids)
    torch.testing.assert_close(got.logprobs, expected.logprobs, atol=EXACT, rtol=0)
    torch.testing.assert_close(got.hidden, expected.hidden, atol=EXACT, rtol=0)
    return got


def shapes(policy: Policy) -> list[tuple[int, ...]]:
    """Rows and keys of the steps that were captured, the least recently used first."""
    found = [[shape for shape, *_ in key[-1]] for key in policy.static_steps.captured]
    return [(tokens[0], *(x[3] for x in masks if x[1:3] == (1, 1))) for tokens, _, *masks in found]


@pytest.mark.quick(2)
def test_a_captured_step_says_what_the_plain_one_says_in_each_rollout(policy: Policy) -> None:
    """Whatever the adapter has learned, though all is where the step was captured to find it."""
    base = {name: x.clone() for name, x in policy.named_parameters() if "lora_" not in name}
    where = {name: x.data_ptr() for name, x in policy.named_parameters()}
    with torch.inference_mode():  # as in a validation, after which training goes on
        first = check_equal(policy)
        assert len(set(first.ids.eq(1).int().argmax(dim=1).tolist())) > 2  # they end at times
    (captured,) = policy.static_steps.captured.values()
    check_equal(policy)
    for _ in range(2):
        change(policy)
        again = check_equal(policy)
        assert again.ids.shape != first.ids.shape or not torch.equal(again.ids, first.ids)
    with torch.inference_mode():
        check_equal(policy)
    assert [*policy.static_steps.captured.values()] == [captured]
    for name, parameter in policy.named_parameters():
        assert parameter.data_ptr() == where[name], name
        assert "lora_" in name or torch.equal(parameter, base[name]), name


def test_weights_that_have_moved_are_found(policy: Policy) -> None:
    check_equal(policy)
    (captured,) = policy.static_steps.captured.values()
    with torch.no_grad():
        norm = next(x for name, x in policy.named_parameters() if "norm" in name)
        norm.data = norm * 1.5
    check_equal(policy)
    (another,) = policy.static_steps.captured.values()
    assert another is not captured


def test_a_step_captured_under_autocast_says_what_the_plain_one_says_under_it(
    tmp_path: Path, as_on_a_gpu: pytest.MonkeyPatch
) -> None:
    weights = Weights(dtype="bfloat16")  # both the same, but for what the adapter is given
    policy = to_capture(save_random("FLAN-T5", tmp_path), weights=weights)
    given = torch.randint(3, 200, (8, ROWS), generator=torch.Generator().manual_seed(2))

    def logits(static_steps: StaticSteps | None) -> Tensor:
        heard: list[Tensor] = []

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            heard.append(logits.clone())
            return given[step]

        prompts = read(policy)
        with torch.no_grad():
            decode(policy.base, policy.family, prompts, choose, 8, static_steps)
        return torch.stack(heard)

    other = logits(policy.static_steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, got = logits(None), logits(policy.static_steps)
    assert len(policy.static_steps.captured) == 2
    assert not policy.static_steps.recorded
    # a bfloat16 number of this size is exact to 0.03
    assert (got - expected).abs().max() < 0.1 * (other - expected).abs().max()


def test_rows_that_have_ended_are_dropped_at_sizes_that_are_captured(
    tmp_path: Path, as_on_a_gpu: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DROP_POLICIES", {"cpu": DropPolicy(3, 2)})
    kept, select = [], CapturedDecoder.select

    def noted_select(decoder: CapturedDecoder, rows: Tensor) -> None:
        kept.append(len(rows))
        select(decoder, rows)

    monkeypatch.setattr(CapturedDecoder, "select", noted_select)
    policy = to_capture(save_random("FLAN-T5", tmp_path)).double()
    for rows in (33, 33, ROWS):
        check_equal(policy, rows)
    assert kept == [17, 17, 3]
    assert shapes(policy) == [(64, 128, 128), (32, 128, 128), (8, 128, 128)]  # 3 where 6 were


def test_what_cant_be_captured_goes_on_step_by_step(
    tmp_path: Path, as_on_a_gpu: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DROP_POLICIES", {"cpu": DropPolicy(3, 2)})  # two shapes, one warning

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("called a synchronizing operation\nand a long story")

    policy = to_capture(save_random("FLAN-T5", tmp_path)).double()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patch.setattr(cuda_graph, "capture", fails)
        for _ in range(2):
            check_equal(policy)
    about = [str(x.message) for x in told if "capture" in str(x.message)]
    assert about == [
        "the decode step can't be captured and stays slow: called a synchronizing operation"
    ]
    assert not policy.static_steps.captured


# Tokens of the longest prompt, in batches of DialogSum with FLAN-T5's tokenizer.
WIDTHS = (293, 258, 280, 265, 322, 246, 245, 272, 290, 294, 258, 296, 316, 256, 290, 312)
LAST = 36  # rows of a validation's last batch


@pytest.mark.parametrize("name", ["FLAN-T5", "Llama"])
def test_a_run_has_few_shapes(
    name: str, tmp_path: Path, as_on_a_gpu: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lengths its prompts have, and whatever limits are drawn for its responses."""
    monkeypatch.setattr(loop, "DROP_POLICIES", {"cpu": DropPolicy(8, 2**20)})
    policy = to_capture(save_random(name, tmp_path))
    policy.sampling = Sampling(max_new_tokens=(3, 150))
    longest = torch.randint(3, 200, (1, max(WIDTHS)), generator=torch.Generator().manual_seed(0))

    def rollout(rows: int, width: int, limit: int) -> None:
        prompts = longest[:, :width]
        encoded = policy.encode_prompts(prompts, torch.ones_like(prompts).bool())
        policy.generate(encoded.select(torch.zeros(rows).long()), greedy, limit)

    for rows in (64, LAST, 16):
        for number, width in enumerate(WIDTHS[:: 1 if rows == 16 else 5]):
            rollout(rows, width, limit=3 + number % 3)
    expected = []
    for rows, prompt in product((16, 64), (256, 512)):
        # 150 tokens in whole blocks; a decoder alone has them after the prompt's
        expected.append((rows, 192, prompt) if name == "FLAN-T5" else (rows, prompt + 192))
    assert sorted(shapes(policy)) == expected


def held() -> int:
    """Bytes of all tensors that can be found."""
    gc.collect()
    found = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if issubclass(type(x), Tensor) and x.layout == torch.strided
    }
    return sum(found.values())


@pytest.mark.quick(2)
def test_all_shapes_share_the_memory_of_the_largest(policy: Policy) -> None:
    """The keys and values that the prompts had before are let go."""
    steps = policy.static_steps
    steps.free()
    before = held()
    alive: list[bool] = []

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        if step == 1:
            caches = (x for x in gc.get_objects() if type(x) is DynamicLayer)
            alive.append(any(x.keys is not None for x in caches))
        return logits.argmax(dim=-1)

    sizes = []
    for rows in (8, 40, 16, 40, 20):
        policy.generate(read(policy, rows), choose, 8)
        sizes.append(steps.arena.size)
    assert shapes(policy)[-1][0] == 32
    assert [x[0] for x in shapes(policy)] == [16, 64, 32]  # those of 8 had other memory
    assert alive == [False] * 5
    assert sizes[1] > 7 * sizes[0]
    assert sizes[1:] == [steps.arena.size] * 4
    # keys and values of two layers in float64, of heads of eight; masks; tokens, their position
    width = 8 if policy.base.config.model_type == "llama" else 16
    assert sizes[1] == 64 * 256 * (2 * 2 * width + 1) * 8 + 64 * 8 + ALIGNMENT
    assert held() - before < steps.arena.size + 2**20
    steps.free()
    assert held() - before < 2**20


def test_the_prompts_keys_are_let_go_layer_by_layer() -> None:
    layers = [DynamicLayer() for _ in range(3)]
    for number, layer in enumerate(layers, 1):
        layer.keys, layer.values = number, -number
    del layer
    kept = [weakref.ref(layer) for layer in layers]
    caches = {"cache": SimpleNamespace(layers=layers), "prompt_cache": SimpleNamespace(layers=[])}
    given = [
        (x, sum(layer() is not None for layer in kept))
        for x in _given_up(SimpleNamespace(**caches))
    ]
    assert given == [(1, 3), (-1, 3), (2, 2), (-2, 2), (3, 1), (-3, 1)]


@pytest.mark.quick(1)
def test_the_least_recently_used_step_is_dropped(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "MAX_CAPTURED", 2)
    policy.static_steps.free()
    for rows in (32, 8, 32, 16):
        policy.generate(read(policy, rows), greedy, 2)
    assert [x[0] for x in shapes(policy)] == [32, 16]
    (first, _) = policy.static_steps.captured.values()
    policy.generate(read(policy, 32), greedy, 2)
    assert [x[0] for x in shapes(policy)] == [16, 32]
    assert [*policy.static_steps.captured.values()][1] is first


def test_graphs_share_a_pool_as_long_as_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses the handle of a pool whose graphs are all gone."""

    class OnAGpu(SimpleNamespace):
        is_cuda = True

    def captured(step: Any, model: Any, inputs: Any, pool: int) -> Any:
        pools.append(pool)
        return SimpleNamespace(is_current=step != "moved")

    handles, pools, kept = iter(range(9)), [], Arena()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(arena, "CapturedStep", captured)
    for key, step in ((1, "moved"), (1, "step"), (2, "step"), (3, "step"), (2, "step")):
        kept.step(key, step, None, [OnAGpu()])
    assert pools == [0, 1, 1, 1]  # the one whose weights have moved was alone
    kept.clear()
    kept.step(3, "step", None, [OnAGpu()])
    assert pools[4:] == [2]


@pytest.mark.quick(1)
def test_out_of_memory_is_left_to_who_can_free_some(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't taken for a step that can't be captured."""

    def fails(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    policy.static_steps.free()
    monkeypatch.setattr(cuda_graph, "capture", fails)
    with pytest.raises(torch.OutOfMemoryError):
        policy.generate(read(policy), greedy, 2)
    assert policy.static_steps.capturing
    assert policy.static_steps.arena.size


def test_waits_are_refused_in_the_trial_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def trial() -> None:
        with waits_refused():
            assert modes == [0, "error"]
            raise RuntimeError("it waits")

    with pytest.raises(RuntimeError, match="it waits"):
        trial()
    assert modes == [0, "error", 0]


def test_a_trial_that_fails_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels still use the inputs, which the next step changes."""
    waits: list[tuple[str, str]] = []

    class Stream:
        def __init__(self, name: str = "side"):
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            waits.append((self.name, other.name))

    fakes = {
        "current_stream": lambda: Stream("current"),
        "stream": nullcontext,
        "device": nullcontext,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(cuda_graph, "_side_stream", lambda device: Stream())

    def fails(*_: Any) -> Any:
        raise RuntimeError("it waits")

    on_a_gpu: Any = SimpleNamespace(is_cuda=True, device="cuda")
    with pytest.raises(RuntimeError, match="it waits"):
        capture(fails, [on_a_gpu])
    assert waits == [("side", "current"), ("current", "side")]

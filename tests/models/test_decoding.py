"""Decoding says what transformers' ``generate`` says, in every architecture, however it runs."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, M2M100Config, ProphetNetConfig

from architectures import BART_LIKE, CONFIGS, DECODER_ONLY, TOKENS, each, save_random
from detox_lightning.models.decoding.draws import GumbelDraws, TorchDraws
from detox_lightning.models.decoding.loop import decode
from detox_lightning.models.decoding.recorded_step import WARM_UP, RecordedStep, record
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.families import encoder_decoder
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from numerics import EXACT, FLOAT32, in_float64

FAMILY = EncoderDecoder()
LIMIT = 40  # longer than what a recording's room is rounded up to
IDS = torch.randint(3, 200, (6, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(11) < torch.tensor([11, 4, 9, 1, 11, 6])[:, None]
PLAIN = ("LongT5", "GPT-Neo")  # whose step transformers says is no fixed graph
PLAIN += ("BLOOM", "Gemma 2", "Gemma 3", "T5Gemma")  # can't be told positions; have windows
# whose masks overflow in float64, if only the weights are that
SINGLE = ("BLOOM", "Gemma 2", "Gemma 3", "T5Gemma")


@pytest.fixture(scope="module", params=each([*CONFIGS, *DECODER_ONLY]))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def disturbed(name: str, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """One that has gone some way from its reference, in float64: no ties, no rounding."""
    folder = save_random(name, tmp_path_factory.mktemp(name))
    policy = load_policy(folder, LoRA(r=2), Sampling())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape)
    return policy if name in SINGLE else policy.double()


@pytest.fixture
def policy(disturbed: Policy, name: str) -> Iterator[Policy]:
    with in_float64(disturbed) if name in SINGLE else nullcontext():
        yield disturbed


def prompts(policy: Policy) -> tuple[Tensor, Tensor]:
    """Padded on the family's side, with tokens that must not matter."""
    if policy.family.padding_side == "right":
        return IDS, MASK
    return IDS.flip(1), MASK.flip(1)


def theirs(policy: Policy, **options: Any) -> Tensor:
    """What ``generate`` says, padded to the limit."""
    ids, mask = prompts(policy)
    its = policy.base.generation_config
    policy.base.generation_config = GenerationConfig(  # without beams, forced tokens, penalties
        decoder_start_token_id=its.decoder_start_token_id,
        bos_token_id=its.bos_token_id,
        eos_token_id=its.eos_token_id,
        pad_token_id=its.pad_token_id,
    )
    # its cache has as many layers as the encoder, and this decoder has more
    options["use_cache"] = policy.base.config.model_type != "mt5"
    said = policy.model.generate(
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=LIMIT, **options
    )
    return widened(policy.family.strip_prompt(said, ids), padding(policy))


def padding(policy: Policy) -> int:
    config = policy.base.generation_config
    return config.eos_token_id if config.pad_token_id is None else config.pad_token_id


def widened(ids: Tensor, value: int = 0) -> Tensor:
    return torch.nn.functional.pad(ids, (0, LIMIT - ids.shape[1]), value=value)


@pytest.mark.quick(5)
def test_the_likeliest_tokens_are_generate_s(policy: Policy, name: str) -> None:
    expected = theirs(policy, do_sample=False)
    for _ in range(2):  # while warming up, and played back
        said = policy.generate(policy.encode_prompts(*prompts(policy)), greedy, LIMIT).ids
        assert torch.equal(widened(said, padding(policy)), expected)
    played = [x for x in policy.static_steps.recorded.values() if x.calls > WARM_UP]
    assert bool(played) == (name not in PLAIN)
    assert all(x.replay for x in played)
    captured = StaticSteps(capturing=True)  # at padded shapes; on a CPU without a graph
    for steps in (None, captured):
        encoded = policy.encode_prompts(*prompts(policy))
        other = decode(policy.base, policy.family, encoded, greedy, LIMIT, steps, longest=70).ids
        assert torch.equal(widened(other, padding(policy)), expected)
    assert len(captured.captured) == (name not in PLAIN)


@pytest.mark.quick(5)
def test_what_is_played_back_is_what_was_done_before_to_the_last_bit(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on from a checkpoint begins without recordings."""
    dtype = policy.base.dtype
    policy.float()
    said: list[list[Tensor]] = []
    for warm_up in (10**9, 0, 7):
        monkeypatch.setattr("detox_lightning.models.decoding.recorded_step.WARM_UP", warm_up)
        logits: list[Tensor] = []

        def kept(x: Tensor, rows: Tensor, step: int, logits: list[Tensor] = logits) -> Tensor:
            logits.append(x.clone())
            return greedy(x, rows, step)

        decode(
            policy.base,
            policy.family,
            policy.encode_prompts(*prompts(policy)),
            kept,
            LIMIT,
            StaticSteps(),
        )
        said.append(logits)
    policy.to(dtype)
    assert len(said[0]) > 7
    for other in said[1:]:
        assert all(torch.equal(x, y) for x, y in zip(said[0], other, strict=True))


class Multinomial(TorchDraws):
    """Draws as ``generate`` does."""

    def __call__(
        self, scores: Tensor, rows: Tensor, step: int, tokens: Tensor | None = None
    ) -> Tensor:
        assert tokens is not None
        p = torch.zeros(len(rows), 200).scatter(1, tokens, scores.softmax(dim=-1))
        drawn = torch.multinomial(p, 1)
        return tokens.eq(drawn).int().argmax(dim=1)


@pytest.mark.quick(5)
def test_samples_are_generate_s(policy: Policy) -> None:
    sampling = Sampling(min_new_tokens=LIMIT, max_new_tokens=LIMIT, temperature=0.7, top_k=9)
    torch.manual_seed(3)
    expected = theirs(policy, do_sample=True, min_new_tokens=LIMIT, temperature=0.7, top_k=9)
    torch.manual_seed(3)
    choose = sampling.choose([1], Multinomial())
    said = policy.generate(policy.encode_prompts(*prompts(policy)), choose, LIMIT).ids
    assert torch.equal(said, expected)


@pytest.mark.quick(5)
def test_log_probabilities_on_the_way_are_those_of_the_whole(policy: Policy) -> None:
    noise = GumbelDraws(0, torch.arange(6), torch.ones(6, dtype=torch.long))
    ids = policy.generate(
        policy.encode_prompts(*prompts(policy)), Sampling().choose([1], noise), LIMIT
    ).ids
    with torch.no_grad():
        mixed = policy(*prompts(policy), ids).logprobs.double()
    with torch.no_grad(), in_float64(policy):
        whole = policy(*prompts(policy), ids).logprobs
        again = policy(*prompts(policy), ids, policy.encode_prompts(*prompts(policy))).logprobs
    real = ids.ne(0) & ids.ne(1)
    on_the_way = torch.stack(noise.logprobs, dim=1).double()
    # the scores that are sampled from, and the norms' sums, are float32
    bound = FLOAT32 * float(whole[real].abs().max())
    torch.testing.assert_close(on_the_way[real], mixed[real], atol=bound, rtol=0)
    torch.testing.assert_close(again, whole, atol=EXACT, rtol=0)


@pytest.fixture(scope="module")
def fond_of_eos(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A T5 whose responses end early."""
    folder = save_random("FLAN-T5", tmp_path_factory.mktemp("short"))
    policy = load_policy(folder, LoRA(r=2), Sampling())
    with torch.no_grad():
        policy.base.lm_head.weight.mul_(0.02)
        policy.base.lm_head.weight[1] *= 60
    return policy.double()


@pytest.mark.parametrize("static_steps", [None, StaticSteps()], ids=["plain", "recorded"])
def test_rows_that_have_ended_are_dropped(
    fond_of_eos: Policy, static_steps: StaticSteps | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others go on as if nothing had been."""
    model = fond_of_eos.base
    prompts = fond_of_eos.encode_prompts(IDS.repeat(4, 1), MASK.repeat(4, 1))
    sizes: list[int] = []

    def noise() -> Any:
        noise = GumbelDraws(0, torch.arange(24), torch.ones(24, dtype=torch.long))
        choose = Sampling().choose([1], noise)

        def watched(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            sizes.append(len(rows))
            return choose(logits, rows, step)

        return watched

    said = decode(model, FAMILY, prompts, noise(), LIMIT, static_steps).ids
    assert {24, 12, 6, 3} <= set(sizes)
    alone = [
        decode(model, FAMILY, prompts.select(torch.tensor([row])), one_of(row), LIMIT).ids[0]
        for row in range(24)
    ]
    for row, ids in zip(said, alone, strict=True):
        assert row[: len(ids)].tolist() == ids.tolist()
        assert not row[len(ids) :].any()


def one_of(row: int) -> Any:
    noise = GumbelDraws(0, torch.tensor([row]), torch.tensor([1]))
    return Sampling().choose([1], noise)


def test_equal_prompts_are_read_once_and_long_ones_apart(
    fond_of_eos: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "detox_lightning.models.families.encoder_decoder.padding_budget", lambda model: 2
    )
    read_before: list[tuple[int, ...]] = []
    encoder = fond_of_eos.base.get_encoder()
    hook = encoder.register_forward_pre_hook(
        lambda module, args, kwargs: read_before.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    with in_float64(fond_of_eos):
        prompts = fond_of_eos.encode_prompts(IDS.repeat(3, 1), MASK.repeat(3, 1))
        hook.remove()
        whole = encoder(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state
    assert sorted(read_before) == [(1, 1), (2, 6), (3, 11)]
    assert prompts.states.shape == (6, 11, 16)
    hidden, mask = prompts.expanded()
    assert torch.equal(mask, MASK.repeat(3, 1))
    torch.testing.assert_close(hidden[mask], whole.repeat(3, 1, 1)[mask], atol=EXACT, rtol=0)


@pytest.mark.quick(5)
def test_learning_from_prompts_read_apart_is_learning_from_all_at_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = torch.randint(3, 90, (12, 5), generator=torch.Generator().manual_seed(0))
    rows = *(x.repeat(2, 1) for x in prompts(policy)), response
    weights = [p for name, p in policy.named_parameters() if p.requires_grad]
    found = []
    for budget in (0, 10**6):
        monkeypatch.setattr(encoder_decoder, "padding_budget", lambda model, budget=budget: budget)
        for apart in (True, False):
            monkeypatch.setattr(Policy, "encodes_in_groups", apart)
            with in_float64(policy):
                said = policy(*rows)
                share = torch.linspace(-1, 1, 60).view(12, 5)
                loss = ((said.logprobs + said.values) * share).sum()
                found.append([loss.detach(), *torch.autograd.grad(loss, weights)])
    assert max(float(x.abs().max()) for x in found[0]) > 0.1
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            assert (x - y).norm() <= EXACT * x.norm()


def test_weights_are_seen_as_they_are_by_then(fond_of_eos: Policy) -> None:
    """A recording knows nothing of the weights it was made with; and none is merged for good."""
    policy = fond_of_eos
    base = {name: x.clone() for name, x in policy.named_parameters()}
    first = policy.generate(policy.encode_prompts(IDS, MASK), greedy, LIMIT).ids
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter += 3 * torch.randn(parameter.shape)
    second = policy.generate(policy.encode_prompts(IDS, MASK), greedy, LIMIT).ids
    assert not torch.equal(widened(first), widened(second))
    assert torch.equal(widened(second), theirs(policy, do_sample=False))
    with policy.reference():
        before = policy.generate(policy.encode_prompts(IDS, MASK), greedy, LIMIT).ids
        assert torch.equal(widened(before), theirs(policy, do_sample=False))
    for name, parameter in policy.named_parameters():
        if "lora_B" not in name:
            assert torch.equal(parameter, base[name]), name
    assert not any(getattr(layer, "merged", False) for layer in policy.modules())


ADAPTERS = {
    "LoRA": LoRA(r=2),
    "DoRA": LoRA(r=2, options={"use_dora": True}),
    "rsLoRA": LoRA(r=2, options={"use_rslora": True}),
    "biases": LoRA(r=2, options={"lora_bias": True}),  # which peft can't merge into this base
    "some tokens": LoRA(r=2, options={"trainable_token_indices": list(range(3, 90))}),
    "tied head": LoRA(r=2, target_modules=["q", "lm_head"]),  # merged, it would be the embedding
    "embeddings": LoRA(r=2, target_modules=["q", "embed_tokens"]),
    "trained whole": LoRA(r=2, modules_to_save=["lm_head"]),
}


# tests/models/test_foreign_adapters.py has these kinds, too
SLOW = ("rsLoRA", "some tokens", "embeddings", "trained whole", "biases")
KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in ADAPTERS]


@pytest.mark.quick(2)
@pytest.mark.parametrize("kind", [*KINDS, "bfloat16", "no adapter"])
def test_with_any_adapter_policy_and_reference_say_what_generate_says(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detox_lightning.models.decoding.recorded_step.WARM_UP", 5)
    base = "T5" if kind == "tied head" else "FLAN-T5"
    lora = None if kind == "no adapter" else ADAPTERS.get(kind, LoRA(r=2))
    weights = Weights(dtype="bfloat16" if kind == "bfloat16" else "float32")
    policy = load_policy(
        ModelSource(save_random(base, tmp_path), weights=weights), lora, Sampling()
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape)
    if kind != "bfloat16":
        policy.double()
    said = []
    for before in (False, True, False, True):
        with policy.reference(before):
            said.append(
                widened(policy.generate(policy.encode_prompts(IDS, MASK), greedy, LIMIT).ids)
            )
            assert torch.equal(said[-1], theirs(policy, do_sample=False))
    assert not torch.equal(said[0], said[1])
    assert all(x.calls > 5 for x in policy.static_steps.recorded.values())
    assert not any(getattr(layer, "merged", False) for layer in policy.modules())


OTHERS = {
    # its step asks what a tensor holds: it can't be recorded, though transformers says so
    "M2M100": lambda: M2M100Config(**BART_LIKE, **TOKENS),
    "ProphetNet": lambda: ProphetNetConfig(
        **TOKENS,
        hidden_size=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_attention_heads=2,
        num_decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_do_without_recordings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detox_lightning.models.decoding.recorded_step.WARM_UP", 5)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(OTHERS[name]()).eval().double()
    options = {"max_new_tokens": LIMIT, "do_sample": False, "forced_eos_token_id": None}
    expected = model.generate(input_ids=IDS, attention_mask=MASK.long(), **options)[:, 1:]
    with torch.no_grad():
        said = decode(
            model, FAMILY, FAMILY.encode_prompts(model, IDS, MASK), greedy, LIMIT, StaticSteps()
        ).ids
    assert said.shape[1] > 5
    assert torch.equal(widened(said), widened(expected))


def test_a_prompt_without_a_token_spoils_no_other(fond_of_eos: Policy) -> None:
    mask = MASK.clone()
    mask[2] = False
    said = widened(fond_of_eos.generate(fond_of_eos.encode_prompts(IDS, mask), greedy, LIMIT).ids)
    others = torch.tensor([0, 1, 3, 4, 5])
    alone = fond_of_eos.generate(
        fond_of_eos.encode_prompts(IDS[others], mask[others]), greedy, LIMIT
    )
    assert torch.equal(said[others], widened(alone.ids))


def test_few_shapes_are_recorded(fond_of_eos: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detox_lightning.models.decoding.static_step.MAX_RECORDED", 2)
    monkeypatch.setattr("detox_lightning.models.decoding.recorded_step.WARM_UP", 1)
    static_steps = StaticSteps()
    for rows in (1, 2, 3, 1):
        prompts = fond_of_eos.encode_prompts(IDS[:rows], MASK[:rows])
        never = Sampling(min_new_tokens=4, max_new_tokens=4).choose([1])
        decode(fond_of_eos.base, FAMILY, prompts, never, 4, static_steps)
    assert [x.replay is not None for x in static_steps.recorded.values()] == [True, True]


def test_a_recording_lets_go_of_what_it_was_made_with() -> None:
    """The keys and values of a hundred prompts are 50 MB, for as long as there is a recording."""

    def step(tokens: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tokens + 1, keys.sum(dim=2)

    inputs = [torch.zeros(2, 1), torch.ones(2, 4, 64, 8)]
    recorded = record(step, inputs)
    assert recorded is not None
    held = [weakref.ref(x) for x in inputs]
    expected = [x.clone() for x in step(*inputs)]
    assert all(map(torch.equal, recorded(*inputs), expected))
    del inputs
    gc.collect()
    assert [x() for x in held] == [None, None]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detox_lightning.models.decoding.recorded_step.WARM_UP", 0)


@pytest.mark.usefixtures("at_once")
def test_a_step_that_asks_for_values_is_not_recorded() -> None:
    def step(tokens: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return (tokens if tokens.sum() > 0 else keys), keys

    recorded = RecordedStep(step)
    for first, second in ((0.0, 1.0), (1.0, 0.0)):
        assert recorded(torch.full((2,), first), torch.full((2,), second))[0].tolist() == [1, 1]
    assert recorded.replay is None


@pytest.mark.usefixtures("at_once")
def test_a_recording_that_differs_from_the_step_is_dropped() -> None:
    """Here because it takes for a weight what was made behind torch's back."""

    def step(tokens: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        with torch._C.DisableTorchFunction():
            doubled = tokens * 2
        return doubled + 1, keys + 1

    recorded = RecordedStep(step)
    x = torch.ones(2)
    assert recorded(x, x)[0].tolist() == [3, 3]
    assert recorded.replay is not None
    assert recorded(5 * x, x)[0].tolist() == [11, 11]
    assert recorded.replay is None
    assert recorded(6 * x, x)[0].tolist() == [13, 13]


@pytest.mark.usefixtures("at_once")
def test_writes_views_and_weights_are_replayed() -> None:
    weight = torch.nn.Parameter(torch.eye(2))

    def step(tokens: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        keys[0].copy_(tokens.view(2))
        keys[1, :].add_(0)
        one, two = (keys @ weight.T).split([1, 1], dim=1)
        unused = tokens + 1
        del unused
        return torch.cat([two, one], dim=1), keys.mT

    recorded, keys = RecordedStep(step), torch.zeros(2, 2)
    for number in (4, 5, 6, 7):
        with torch.no_grad():
            weight[0, 0] = number
        logits, hidden = recorded(torch.tensor([[1.0], [2.0]]) * number, keys)
        assert logits.tolist() == [[2 * number, number**2], [0, 0]]
        assert hidden.tolist() == [[number, 0], [2 * number, 0]]
        assert keys.tolist() == [[number, 2 * number], [0, 0]]
    assert recorded.replay is not None

"""The policy: what learns, what it is compared with, and whose log-probabilities it gives."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.algorithm.masks import mask_from_lengths, response_lengths
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.lora import LoRA, add_lora
from detox_lightning.models.policy import Policy, PolicyOutput, load_policy
from detox_lightning.models.saving import save_model
from detox_lightning.models.value_head import ValueHead
from numerics import EXACT, FLOAT32, in_float64

SMALL = LoRA(r=4, alpha=8, dropout=0.1)


def disturb(policy: Policy, std: float = 0.3, seed: int = 0) -> Policy:
    """Moves the adapter and the value head, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += std * torch.randn(parameter.shape, generator=generator)
    return policy


def fresh(name: str, sampling: Sampling = Sampling()) -> Policy:  # noqa: B008
    torch.manual_seed(0)
    return load_policy(name, SMALL, sampling)


@pytest.fixture(scope="module")
def adapter(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained adapter of the tiny T5."""
    folder = tmp_path_factory.mktemp("adapter")
    save_model(disturb(fresh(tiny_t5)).model, word_tokenizer(), folder)
    return str(folder)


@pytest.fixture(params=["fresh", "loaded"])
def policy(request: pytest.FixtureRequest, tiny_t5: str, adapter: str) -> Policy:
    return fresh(tiny_t5 if request.param == "fresh" else adapter)


def rows(b: int = 4, s: int = 7, t: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts of several lengths, their mask, and responses."""
    generator = torch.Generator().manual_seed(1)
    mask = mask_from_lengths(torch.tensor([s, 3, 1, s - 1][:b]), s)
    prompts = torch.randint(2, 200, (b, s), generator=generator).masked_fill(~mask, 0)
    return prompts, mask, torch.randint(1, 200, (b, t), generator=generator)


def trainable(policy: Policy) -> dict[str, Tensor]:
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


# -- what learns


def flan_t5_base() -> T5ForConditionalGeneration:
    """In size; there is nothing in it."""
    config = T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
        model.lm_head.weight = torch.nn.Parameter(torch.empty(32128, 768))
    return model


def test_counts_of_flan_t5_base() -> None:
    """With r=32 on q and v, as docs and courses give them."""
    with torch.device("meta"):
        model = add_lora(flan_t5_base(), LoRA(r=32), EncoderDecoder.task_type)
    assert Policy(model, EncoderDecoder(), Sampling()).parameter_counts() == {
        "policy_trainable": 3_538_944,
        "policy_total": 251_116_800,
        "with_value_head_trainable": 3_539_713,
        "with_value_head_total": 251_117_569,
        "reference_trainable": 0,
    }


def test_a_loaded_adapter_counts_as_a_fresh_one(tiny_t5: str, adapter: str) -> None:
    """The reference's copy is nobody's parameter to train, and none of the policy's."""
    assert fresh(adapter).parameter_counts() == fresh(tiny_t5).parameter_counts()


def test_adapter_and_value_head_learn_and_nothing_else(policy: Policy) -> None:
    names = set(trainable(policy))
    assert names
    heads = {name for name in names if name.startswith("value_head.")}
    assert heads == {"value_head.linear.weight", "value_head.linear.bias"}
    assert all(".default." in name and "lora_" in name for name in names - heads)
    output = policy(*rows())
    (output.logprobs.sum() + output.values.sum()).backward()
    assert all(p.grad is not None for name, p in trainable(policy).items())
    assert all(p.grad is None for p in policy.parameters() if not p.requires_grad)


def test_without_a_value_head_values_are_0(tiny_t5: str) -> None:
    policy = load_policy(tiny_t5, SMALL, Sampling(), value_head=False)
    assert (policy(*rows()).values == 0).all()
    assert all("lora_" in name for name in trainable(policy))
    counts = policy.parameter_counts()
    assert counts["policy_trainable"] == counts["with_value_head_trainable"]


# -- the value head


def test_values_are_0_at_first(policy: Policy) -> None:
    values = policy(*rows()).values
    assert values.shape == (4, 5)
    assert (values == 0).all()


@pytest.mark.parametrize(
    "cast", [lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16(), lambda m: m.half()]
)
def test_the_value_head_stays_in_float32(cast: Callable[[Any], Any]) -> None:
    module = cast(torch.nn.Sequential(torch.nn.Linear(8, 8), ValueHead(8)))
    linear, head = module
    assert linear.weight.dtype != torch.float32
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    torch.nn.init.normal_(head.linear.weight)
    hidden = torch.randn(2, 3, 8).to(linear.weight.dtype)
    expected = torch.nn.functional.linear(hidden.float(), head.linear.weight, head.linear.bias)
    with torch.autocast("cpu", torch.bfloat16):
        values = head(hidden)
    assert values.dtype == torch.float32
    assert torch.equal(values, expected.squeeze(-1))


def test_what_a_policy_in_bfloat16_says_is_float32(policy: Policy) -> None:
    output = disturb(policy).to(torch.bfloat16)(*rows())
    assert {x.dtype for x in output} == {torch.float32}


# -- the reference


def test_the_reference_is_the_policy_as_it_began(policy: Policy) -> None:
    began = policy.with_logits(*rows())[1]
    with policy.reference():
        reference = policy.with_logits(*rows())[1]
    assert torch.allclose(reference, began, atol=FLOAT32)
    disturb(policy)
    with policy.reference():
        still = policy.with_logits(*rows())[1]
    assert torch.equal(still, reference)
    assert not torch.allclose(policy.with_logits(*rows())[1], began, atol=1e-2)


def test_a_loaded_adapters_reference_is_not_the_base(tiny_t5: str, adapter: str) -> None:
    base = fresh(tiny_t5).with_logits(*rows())[1]
    policy = fresh(adapter)
    with policy.reference():
        assert not torch.allclose(policy.with_logits(*rows())[1], base, atol=1e-2)


def test_the_reference_leaves_no_trace(policy: Policy) -> None:
    disturb(policy)
    learns, before = set(trainable(policy)), policy.with_logits(*rows())[1]
    weights = {name: p.clone() for name, p in policy.named_parameters()}
    too_many = (*rows(), None, True, False, False, "too many")
    with pytest.raises(TypeError), policy.reference():
        policy(*too_many)
    assert policy.model.active_adapter == "default"
    assert set(trainable(policy)) == learns
    assert torch.equal(policy.with_logits(*rows())[1], before)
    assert all(torch.equal(p, weights[name]) for name, p in policy.named_parameters())


def test_the_reference_never_learns(policy: Policy) -> None:
    with policy.reference():
        assert not any(".reference." in name for name in trainable(policy))
    assert policy.parameter_counts()["reference_trainable"] == 0


def test_reference(policy: Policy) -> None:
    disturb(policy)
    policy_logits = policy.with_logits(*rows())[1]
    with policy.reference(False):
        assert torch.equal(policy.with_logits(*rows())[1], policy_logits)
    with policy.reference(True):
        assert not torch.equal(policy.with_logits(*rows())[1], policy_logits)


# -- no dropout


def test_dropout_never_acts(policy: Policy) -> None:
    """The tiny T5 has a dropout of 0.1, and so has its adapter."""
    assert policy.base.config.dropout_rate == 0.1
    disturb(policy)
    before = policy.with_logits(*rows())[1]
    policy.train()
    torch.nn.ModuleList([policy]).train()
    assert not any(module.training for module in policy.modules())
    assert torch.equal(policy.with_logits(*rows())[1], before)


# -- log-probabilities are the sampler's

SAMPLERS = {
    "plain": Sampling(max_new_tokens=9),
    "temperature": Sampling(max_new_tokens=9, temperature=0.6),
    "minimum": Sampling(max_new_tokens=9, min_new_tokens=4),
    "both": Sampling(max_new_tokens=9, min_new_tokens=4, temperature=1.7),
}


def fond_of_eos(policy: Policy) -> Policy:
    """So that responses end early, and a minimum length matters."""
    with torch.no_grad():
        policy.base.lm_head.weight[1] = 2 * policy.base.lm_head.weight[7]
        policy.base.lm_head.weight[7] = 0.0
    return policy


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
def test_logprobs_are_the_samplers(tiny_t5: str, sampling: Sampling) -> None:
    policy = fond_of_eos(disturb(fresh(tiny_t5, sampling)))
    prompts, mask, _ = rows()
    torch.manual_seed(0)
    generated = policy.model.generate(
        input_ids=prompts.repeat(8, 1),
        attention_mask=mask.repeat(8, 1),
        return_dict_in_generate=True,
        output_scores=True,
        do_sample=True,
        max_new_tokens=9,
        min_new_tokens=sampling.min_new_tokens or None,
        temperature=sampling.temperature,
        top_k=0,
    )
    tokens = generated.sequences[:, 1:]
    lengths = response_lengths(tokens, policy.eos_token_ids)
    assert sampling.min_new_tokens < lengths.min() < lengths.max() == 9
    real = mask_from_lengths(lengths, tokens.shape[1])
    theirs = torch.stack(generated.scores, dim=1).log_softmax(dim=-1)
    ours, logits = policy.with_logits(prompts.repeat(8, 1), mask.repeat(8, 1), tokens)
    chosen = theirs.gather(-1, tokens[..., None]).squeeze(-1)
    assert torch.allclose(ours.logprobs[real], chosen[real], atol=FLOAT32)
    assert torch.allclose(logits.log_softmax(-1)[real], theirs[real], atol=FLOAT32)


def test_generate_gives_responses_alone(policy: Policy) -> None:
    """Without the decoder start token, and padded after EOS."""
    prompts, mask, _ = rows()
    responses = policy.generate(policy.encode_prompts(prompts, mask), greedy, 3).ids
    assert responses.shape[1] <= 3
    raw = policy.model.generate(
        input_ids=prompts, attention_mask=mask, do_sample=False, max_new_tokens=3
    )
    assert torch.equal(responses, raw[:, 1:])


@pytest.fixture
def opinionated(tmp_path: Path) -> str:
    """The tiny T5, whose generation config asks for beams and penalties."""
    model = tiny_t5_model()
    model.generation_config = GenerationConfig(
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        num_beams=4,
        no_repeat_ngram_size=1,
        repetition_penalty=5.0,
        suppress_tokens=[5, 6],
        forced_eos_token_id=1,
        do_sample=True,
        top_k=3,
        max_length=5,
    )
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_base_models_habits_dont_leak_into_sampling(tiny_t5: str, opinionated: str) -> None:
    samples = []
    for name in (tiny_t5, opinionated):
        policy = fresh(name)
        torch.manual_seed(0)
        prompts, mask, _ = rows()
        choose = policy.sampling.choose(policy.eos_token_ids)
        samples.append(policy.generate(policy.encode_prompts(prompts, mask), choose, 12).ids)
    assert torch.equal(*samples)


# -- invariances, in float64, so that rounding doesn't hide what would be a mistake


@pytest.fixture
def precise(policy: Policy) -> Iterator[Policy]:
    with in_float64(disturb(policy)):
        yield policy


def outputs_agree(ours: PolicyOutput, other: PolicyOutput, atol: float = EXACT) -> bool:
    compared = zip(
        (ours.logprobs, ours.values, ours.entropy),
        (other.logprobs, other.values, other.entropy),
        strict=True,
    )
    return all(torch.allclose(x, y, rtol=0, atol=atol) for x, y in compared)


@pytest.mark.parametrize(("prompt_padding", "response_padding"), [(5, 0), (0, 6), (40, 40)])
def test_padding_changes_nothing(
    precise: Policy, prompt_padding: int, response_padding: int
) -> None:
    prompts, mask, responses = rows()
    padded = precise(
        pad(prompts, (0, prompt_padding)),
        pad(mask, (0, prompt_padding)),
        pad(responses, (0, response_padding)),
    )
    width = responses.shape[1]
    cut = PolicyOutput(*(x[:, :width] for x in padded))
    assert outputs_agree(cut, precise(prompts, mask, responses))


def test_rows_dont_see_each_other(precise: Policy) -> None:
    together = precise(*rows())
    order = torch.tensor([2, 0, 3, 1])
    shuffled = precise(*(x[order] for x in rows()))
    assert outputs_agree(PolicyOutput(*(x[order] for x in together)), shuffled)
    for i in range(4):
        alone = precise(*(x[i : i + 1] for x in rows()))
        assert outputs_agree(alone, PolicyOutput(*(x[i : i + 1] for x in together)))


def test_gradient_checkpointing_changes_nothing(policy: Policy) -> None:
    disturb(policy, std=0.1)

    def gradients() -> list[Tensor]:
        policy.zero_grad()
        output = policy(*rows(), entropy_gradient=True)
        (output.logprobs.sum() + output.values.square().sum() + output.entropy.sum()).backward()
        return [p.grad.clone() for p in trainable(policy).values()]

    plain = gradients()
    ran = count_encoder_layers(policy, gradients)
    policy.enable_gradient_checkpointing()
    again = count_encoder_layers(policy, lambda: plain_equal(plain, gradients()))
    assert (ran, again) == (2, 4)  # each of the two layers runs a second time in the backward pass


def plain_equal(plain: list[Tensor], other: list[Tensor]) -> None:
    bound = FLOAT32 * max(float(x.abs().max()) for x in plain)
    assert all(torch.allclose(x, y, rtol=0, atol=bound) for x, y in zip(plain, other, strict=True))


def count_encoder_layers(policy: Policy, run: Callable[[], Any]) -> int:
    """How many times layers of the encoder compute their attention in ``run``."""
    calls: list[int] = []
    hooks = [
        block.layer[0].register_forward_hook(lambda *_: calls.append(1))
        for block in policy.base.encoder.block
    ]
    run()
    for hook in hooks:
        hook.remove()
    return len(calls)


# -- settings of the sampler


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": (9, 4)}, r"max_new_tokens=\[9, 4\]"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "min_new_tokens=5 .*max_new_tokens=4"),
        ({"max_new_tokens": (4, 9), "min_new_tokens": 5}, "min_new_tokens=5 .*max_new_tokens=4"),
        ({"top_p": 0}, "top_p=0"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_length_limits_are_drawn_from_the_whole_range() -> None:
    sampling = Sampling(max_new_tokens=(3, 6))
    drawn = [sampling.draw_limit(seed) for seed in range(60)]
    assert set(drawn) == {3, 4, 5, 6}
    assert drawn == [sampling.draw_limit(seed) for seed in range(60)]
    assert {Sampling(max_new_tokens=5).draw_limit(seed) for seed in range(9)} == {5}


def test_which_samplers_are_exact() -> None:
    assert Sampling(temperature=0.5, min_new_tokens=3).is_exact
    assert not Sampling(top_k=5).is_exact
    assert not Sampling(top_p=0.9).is_exact

"""Decoder-only models say of a response after its prompt what they say of the text alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from architectures import DECODER_ONLY, save_random
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from numerics import EXACT, FLOAT32, in_float64

GENERATOR = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(3, 200, (n,), generator=GENERATOR) for n in (9, 4, 1, 6)]
RESPONSES = torch.randint(3, 200, (4, 7), generator=GENERATOR)
LENGTHS = [7, 3, 5, 1]


@pytest.fixture(scope="module", params=DECODER_ONLY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def disturbed(name: str, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """One that has gone some way from its reference, with a value head that says something."""
    policy = load_policy(save_random(name, tmp_path_factory.mktemp("model")), LoRA(r=2), Sampling())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape)
    return policy


@pytest.fixture
def policy(disturbed: Policy) -> Iterator[Policy]:
    with in_float64(disturbed):
        yield disturbed


def batch(left: int = 0, right: int = 0, filler: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts padded on the left, their mask and responses, with more padding if wanted."""
    width = left + max(map(len, PROMPTS))
    ids = torch.stack([pad(prompt, (width - len(prompt), 0), value=filler) for prompt in PROMPTS])
    lengths = torch.tensor([[len(prompt)] for prompt in PROMPTS])
    mask = torch.arange(width) >= width - lengths
    return ids, mask, pad(RESPONSES, (0, right), value=filler)


def alone(model: Any, row: int, seen: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a response, and what the head reads, without any padding."""
    prompt, response = PROMPTS[row], RESPONSES[row, : LENGTHS[row]]
    logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0]
    before = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    logprobs = logits[before].log_softmax(dim=-1).gather(1, response[:, None])[:, 0]
    return logprobs, seen["hidden"][0, before]


@torch.no_grad()
def test_log_probabilities_are_those_of_each_text_alone(policy: Policy, name: str) -> None:
    assert policy.avoids_logits == (name != "Gemma 2")  # whose logits are bent
    said = policy(*batch())
    with_logits, logits = policy.with_logits(*batch())
    assert logits.shape == (4, 7, 200)
    seen: dict[str, Tensor] = {}
    head = policy.base.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: seen.update(hidden=args[0]))
    for row, length in enumerate(LENGTHS):
        logprobs, hidden = alone(policy.model, row, seen)
        for output in (said, with_logits):
            torch.testing.assert_close(output.logprobs[row, :length], logprobs, atol=EXACT, rtol=0)
        torch.testing.assert_close(
            said.values[row, :length], policy.values(hidden[None])[0], atol=EXACT, rtol=0
        )
    hook.remove()
    assert said.logprobs.std() > 0.01
    torch.testing.assert_close(said.entropy, with_logits.entropy, atol=EXACT, rtol=0)


@torch.no_grad()
def test_padding_changes_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    said = policy(*batch())
    for apart in (True, False):  # as on a GPU, which leaves all padding where it is
        monkeypatch.setattr(Policy, "encodes_in_groups", apart)
        more = policy(*batch(left=5, right=6, filler=77))
        for ours, theirs in zip(said, more, strict=True):
            torch.testing.assert_close(theirs[:, :7], ours, atol=EXACT, rtol=0)


def test_only_the_response_s_tokens_are_learned_from(policy: Policy) -> None:
    """The gradient is that of the response's log-probabilities, whatever the prompt's would be."""
    weights = [p for n, p in policy.named_parameters() if p.requires_grad and "lora" in n]
    output = policy(*batch())
    real = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    ours = torch.autograd.grad((output.logprobs * real).sum(), weights)
    texts = [torch.cat([p, r[:n]]) for p, r, n in zip(PROMPTS, RESPONSES, LENGTHS, strict=True)]
    expected = [torch.zeros_like(x) for x in weights]
    for prompt, text in zip(PROMPTS, texts, strict=True):
        labels = text.clone()
        labels[: len(prompt)] = -100
        loss = policy.model(input_ids=text[None], labels=labels[None]).loss
        total = -loss * (len(text) - len(prompt))
        for sums, x in zip(expected, torch.autograd.grad(total, weights), strict=True):
            sums += x
    assert max(float(x.abs().max()) for x in ours) > 0.01
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, atol=EXACT, rtol=EXACT)


def test_equal_prompts_are_read_once_and_learned_from_as_if_they_were_not(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask, _ = batch()
    rows = torch.tensor([2, 0, 0, 3, 2, 0])
    given = ids[rows], mask[rows], torch.randint(3, 200, (6, 5), generator=GENERATOR)
    weights = [p for p in policy.parameters() if p.requires_grad]
    share = torch.linspace(-1, 1, 30).view(6, 5)
    widths: list[tuple[int, ...]] = []
    hook = policy.base.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: widths.append(tuple(args[0].shape))
    )
    found = []
    for apart in (True, False):  # as on a GPU: nothing is shared
        monkeypatch.setattr(Policy, "encodes_in_groups", apart)
        said = policy(*given, entropy_gradient=True)
        total = ((said.logprobs + said.values + said.entropy) * share).sum()
        found.append([said.logprobs, said.values, *torch.autograd.grad(total, weights)])
    hook.remove()
    # dry runs aside, prompts of 1, 9 and 6 tokens, then responses without their last token
    assert (
        widths[-3:] == ([(3, 9), (6, 4), (6, 14)] if policy.avoids_logits else [(6, 14)] * 2)[-3:]
    )
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= EXACT * theirs.norm()


def test_with_gradient_checkpointing_nothing_is_shared(tmp_path: Path) -> None:
    policy = load_policy(save_random("Llama", tmp_path), LoRA(r=2), Sampling())
    ids, mask, responses = batch()
    rows = torch.tensor([0, 0, 1, 1])
    given = ids[rows], mask[rows], responses
    weights = [p for n, p in policy.named_parameters() if "lora_B" in n]
    found = []
    for _ in range(2):
        said = policy(*given)
        found.append([said.logprobs, *torch.autograd.grad(said.logprobs.sum(), weights)])
        policy.enable_gradient_checkpointing()
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=FLOAT32, rtol=0)


def test_the_adapter_is_on_the_family_s_projections(policy: Policy, name: str) -> None:
    endings = {
        n.split(".lora_")[0].split(".")[-1] for n, _ in policy.named_parameters() if "lora_A" in n
    }
    expected = {"GPT-2": {"c_attn"}, "BLOOM": {"query_key_value"}}
    assert endings == expected.get(name, {"q_proj", "v_proj"})


def test_no_adapter_is_on_a_vision_tower(policy: Policy, name: str) -> None:
    adapted = {n.split(".lora_")[0] for n, _ in policy.named_parameters() if "lora_A" in n}
    assert len(adapted) == (4 if "q_proj" in str(adapted) else 2)  # two layers' projections
    assert not any("vision_tower" in layer for layer in adapted)
    if name == "Gemma 3":
        assert all(".language_model." in layer for layer in adapted)
        seen = {n for n, _ in policy.base.named_modules() if n.endswith(("q_proj", "v_proj"))}
        assert len(seen) == 6  # the tower has a layer of them


def test_the_family_is_told_by_the_config(
    tmp_path: Path, tiny_t5: str, name: str, tiny_classifier: str
) -> None:
    assert isinstance(ModelSource(save_random(name, tmp_path)).family, DecoderOnly)
    assert isinstance(ModelSource(tiny_t5).family, EncoderDecoder)


def test_prompt_and_response_must_have_positions(tmp_path: Path) -> None:
    gpt2, bart = (save_random(name, tmp_path / name) for name in ("GPT-2", "BART"))
    t5 = save_random("T5", tmp_path / "T5")
    limit = {"model.sampling.max_new_tokens": 20}
    ModelSource(gpt2).check_positions(100, limit | {"data.max_target_tokens": 28})
    with pytest.raises(InputError) as caught:
        ModelSource(gpt2).check_positions(100, limit | {"data.max_target_tokens": 29})
    assert str(caught.value) == (
        f"data.max_prompt_tokens=100, data.max_target_tokens=29: {gpt2!r} has 128 "
        "positions, which must hold both together; lower them"
    )
    ModelSource(bart).check_positions(64, limit)
    with pytest.raises(InputError, match="has 64 positions, which must hold either"):
        ModelSource(bart).check_positions(65, limit)
    ModelSource(t5).check_positions(10**6, limit)  # has no positions of its own


def test_a_kind_that_is_not_known_is_refused() -> None:
    class Other(torch.nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return input_ids

    with pytest.raises(InputError, match="'mine' is a Other, a kind of decoder-only model that"):
        DecoderOnly().check_model(Other(), "mine")


def test_the_value_head_is_as_wide_as_what_it_reads(tmp_path: Path) -> None:
    config = DECODER_ONLY["OPT"]()
    config.word_embed_proj_dim, config.hidden_size = 16, 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), LoRA(r=2), Sampling())
    assert policy(*batch()).values.shape == (4, 7)


def test_a_response_is_the_text_that_stands_after_its_prompt() -> None:
    """Some tokenizers drop the blank of the first word, as Llama 2's does."""
    tokenizer = Tokenizer(models.WordLevel({"▁The": 0, "▁man": 1, "s": 2, "</s>": 3}, "s"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    prompts = EncodedPrompts(
        torch.tensor([[1, 0], [0, 3]]), torch.ones(2, 2).bool(), torch.tensor([1, 0])
    )
    responses = torch.tensor([[1, 2, 3], [2, 1, 2]])
    assert fast.batch_decode(responses, skip_special_tokens=True) == ["mans", "s mans"]
    said = DecoderOnly().decode_texts(fast, prompts, responses)
    assert said == ["mans", "s mans"]  # the first begins a text, as its prompt ends with EOS
    said = DecoderOnly().decode_texts(fast, prompts._replace(rows=torch.tensor([0, 0])), responses)
    assert said == [" mans", "s mans"]


def test_models_that_do_not_write_are_refused(tiny_classifier: str) -> None:
    with pytest.raises(InputError, match="is a BertForSequenceClassification, which doesn't write"):
        load_policy(tiny_classifier, LoRA(r=2), Sampling())
    with pytest.raises(InputError, match="can't open the config of 'nowhere/at-all'"):
        ModelSource("nowhere/at-all").load(LoRA())


def test_end_of_sequence_serves_as_padding(tmp_path: Path) -> None:
    """As in GPT-2: a response ends with its first EOS, and those behind it are padding."""
    policy = load_policy(save_random("GPT-2", tmp_path), LoRA(r=2), Sampling())
    assert policy.base.generation_config.pad_token_id is None
    with torch.no_grad():
        policy.base.transformer.ln_f.bias.fill_(1)
        policy.base.transformer.wte.weight[1] += 0.35  # EOS is likely
    ids, mask, _ = batch()
    ids, mask = ids.repeat(6, 1), mask.repeat(6, 1)
    torch.manual_seed(0)
    said = policy.generate(policy.encode_prompts(ids, mask), Sampling().choose([1]), 12).ids
    ended = said.eq(1).cumsum(dim=1).clamp(max=1)
    assert torch.equal(said.eq(1), ended.bool())
    assert len(set(ended.sum(dim=1).tolist())) > 1


def test_a_model_opens_for_what_it_is(tmp_path: Path) -> None:
    policy = load_policy(save_random("Llama", tmp_path), LoRA(r=2), Sampling())
    assert isinstance(policy.base, type(AutoModelForCausalLM.from_pretrained(tmp_path)))
    assert policy.model.peft_config["default"].task_type == "CAUSAL_LM"

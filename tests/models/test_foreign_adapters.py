"""Adapters that others trained with peft: each says here what it says there, or is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from architectures import save_random
from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.adapters import adapter_facts
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.lora import LoRA, add_lora
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.saving import save_merged, save_model
from detox_lightning.models.source import ModelSource
from detox_lightning.runs.provenance import to_plain
from numerics import FLOAT32

GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.randint(3, 200, (3, 7), generator=GENERATOR)
RESPONSES = torch.randint(3, 200, (3, 5), generator=GENERATOR)
MASK = torch.ones_like(IDS).bool()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """GPT-2, whose head is tied to its embeddings."""
    return save_random("GPT-2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_random("Llama", tmp_path_factory.mktemp("llama"))


def task(base: str) -> str:
    return json.loads((Path(base) / "config.json").read_text())["model_type"]


def opened(base: str) -> Any:
    auto = AutoModelForSeq2SeqLM if task(base) == "t5" else AutoModelForCausalLM
    return auto.from_pretrained(base)


def trained(base: Any, config: Any, disturbed: Callable[[Any], Any] = lambda model: ()) -> Any:
    """A base with an adapter of others, after their training; ``disturbed`` is trained besides."""
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in [*learns, *disturbed(model)]:
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def save(model: Any, folder: Path, **options: Any) -> str:
    model.save_pretrained(folder, **options)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def logprobs(model: Any) -> Tensor:
    """What a model of transformers or peft says of the responses, in float64."""
    model = model.double().eval()
    if model.config.is_encoder_decoder:
        first = torch.zeros_like(RESPONSES[:, :1])
        decoder = torch.cat([first, RESPONSES[:, :-1]], dim=1)
        logits = model(input_ids=IDS, attention_mask=MASK.long(), decoder_input_ids=decoder).logits
    else:
        ids = torch.cat([IDS, RESPONSES], dim=1)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        logits = logits[:, IDS.shape[1] - 1 : -1]
    return logits.log_softmax(dim=-1).gather(-1, RESPONSES[..., None])[..., 0]


def said(policy: Policy) -> Tensor:
    return (
        policy.with_logits(IDS, MASK, RESPONSES)[1]
        .double()
        .log_softmax(-1)
        .gather(-1, RESPONSES[..., None])[..., 0]
    )


def close(one: Tensor, other: Tensor, atol: float = FLOAT32) -> bool:
    return torch.allclose(one, other, rtol=0, atol=atol)


def lora(**options: Any) -> Callable[[str], Any]:
    kinds = {"t5": "SEQ_2_SEQ_LM"}
    return lambda base: LoraConfig(
        task_type=kinds.get(task(base), "CAUSAL_LM"), **{"r": 4, **options}
    )


def other(kind: str, **options: Any) -> Callable[[str], Any]:
    targets = {} if "num_virtual_tokens" in options else {"target_modules": ["q", "v"]}
    return lambda base: getattr(peft, kind)(task_type="SEQ_2_SEQ_LM", **targets | options)


def embeddings(model: Any) -> list[Tensor]:
    return [model.get_input_embeddings().weight]


CASES: dict[str, tuple[str, Callable[[str], Any], dict[str, Any]]] = {
    "pissa": ("tiny_t5", lora(init_lora_weights="pissa"), {}),
    "olora": ("tiny_t5", lora(init_lora_weights="olora"), {}),
    "pissa, GPT-2": ("gpt2", lora(init_lora_weights="pissa", lora_alpha=3), {}),
    "olora, Llama": ("llama", lora(init_lora_weights="olora", use_rslora=True), {}),
    "orthogonal": ("tiny_t5", lora(init_lora_weights="orthogonal"), {}),
    "mica": ("tiny_t5", lora(init_lora_weights="mica"), {}),
    "eva": ("tiny_t5", lora(init_lora_weights="eva", eva_config=peft.EvaConfig()), {}),
    "dora": ("llama", lora(use_dora=True), {}),
    "tokens": ("tiny_t5", lora(trainable_token_indices={"shared": [3, 5]}), {}),
    "head": ("gpt2", lora(modules_to_save=["lm_head"]), {}),
    "words": ("tiny_t5", lora(modules_to_save=["embed_tokens"]), {}),
    "words that nobody asks": ("tiny_t5", lora(modules_to_save=["shared"]), {}),
    "words that nobody asks, low rank": ("tiny_t5", lora(target_modules=["q", "shared"]), {}),
    "words that nobody asks, by a pattern": ("tiny_t5", lora(target_modules=".*(d|q)"), {}),
    "tied words": ("gpt2", lora(target_modules=["c_attn", "wte"]), {}),
    "words of low rank": ("llama", lora(target_modules=["q_proj", "embed_tokens"]), {}),
    "tied head": ("gpt2", lora(target_modules=["c_attn", "lm_head"]), {}),
    "brings words": ("tiny_t5", lora(), {"save_embedding_layers": True}),
    "brings words, tied": ("gpt2", lora(), {"save_embedding_layers": True}),
    "adalora": (
        "tiny_t5",
        other("AdaLoraConfig", init_r=4, target_r=2, total_step=10),
        {},
    ),
    "ia3": ("tiny_t5", other("IA3Config", feedforward_modules=[]), {}),
    "loha": ("tiny_t5", other("LoHaConfig", r=4), {}),
    "lokr": ("tiny_t5", other("LoKrConfig", r=4), {}),
    "oft": ("tiny_t5", other("OFTConfig", oft_block_size=4), {}),
    "vera": ("tiny_t5", other("VeraConfig", r=4), {}),
    "norms": ("tiny_t5", other("LNTuningConfig", target_modules=["final_layer_norm"]), {}),
}


# the package treats these like others of the table
ALIKE = {"pissa, GPT-2", "olora", "orthogonal", "mica", "eva", "loha", "lokr", "oft", "vera"}
READ = [pytest.param(case, marks=[pytest.mark.slow] * (case in ALIKE)) for case in CASES]


@pytest.mark.quick(5)
@pytest.mark.parametrize("case", READ)
def test_it_says_what_peft_says_before_and_after_training(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture, config, options = CASES[case]
    base = request.getfixturevalue(fixture)
    changes = embeddings if options else lambda model: ()
    folder = save(trained(opened(base), config(base), changes), tmp_path / "theirs", **options)
    theirs = PeftModel.from_pretrained(opened(base), folder)
    expected = logprobs(theirs)
    assert not close(expected, logprobs(opened(base)), 1e-3)

    policy = load_policy(folder, LoRA(), Sampling())
    learns = [x for x in policy.model.parameters() if x.requires_grad]
    policy.double()
    with torch.no_grad():
        assert close(said(policy), expected)
        with policy.reference():  # KL 0, first ratio 1
            assert close(said(policy), expected)
        ours = policy.generate(policy.encode_prompts(IDS, MASK), greedy, 6).ids
    options = {"max_new_tokens": 6, "do_sample": False}
    full = theirs.generate(input_ids=IDS, attention_mask=MASK.long(), **options)
    assert torch.equal(policy.family.strip_prompt(full, IDS), ours)

    policy(IDS, MASK, RESPONSES).logprobs.sum().backward()
    assert all(x.grad is not None for x in learns)
    torch.optim.SGD(learns, lr=0.01).step()
    policy.float()
    save_model(policy.model, word_tokenizer(), tmp_path / "ours")
    auto = "AutoModelForSeq2SeqLM" if task(base) == "t5" else "AutoModelForCausalLM"
    save_merged(tmp_path / "ours", tmp_path / "merged", auto)
    policy.double()
    with torch.no_grad():
        now = said(policy)
        with policy.reference():
            assert close(said(policy), expected)
    assert not close(now, expected, 1e-4)
    again = PeftModel.from_pretrained(opened(base), tmp_path / "ours")
    assert close(logprobs(again), now)
    assert close(said(load_policy(str(tmp_path / "ours"), LoRA(), Sampling()).double()), now)
    assert close(logprobs(opened(str(tmp_path / "merged"))), now)


# -- what is refused, and what its line proposes


REFUSED: dict[str, tuple[Callable[[str], Any], str]] = {
    "prompt": (
        other("PromptTuningConfig", num_virtual_tokens=3),
        "of the kind PROMPT_TUNING",
    ),
    "prefix": (
        other("PrefixTuningConfig", num_virtual_tokens=3),
        "of the kind PREFIX_TUNING",
    ),
    "biases": (lora(bias="all"), "bias: all, which changes parameters of the base itself"),
    "its biases": (lora(bias="lora_only"), "bias: lora_only, which changes parameters"),
    "from some tokens on": (
        lora(alora_invocation_tokens=[5]),
        "its alora_invocation_tokens is not supported",
    ),
    "random beginning": (lora(init_lora_weights="pissa_niter_4"), "can't be repeated"),
    "one of its kind": (
        other("TrainableTokensConfig", target_modules=["shared"], token_indices=[3, 5]),
        "an adapter of the kind TRAINABLE_TOKENS can't have a frozen copy",
    ),
}


def refused(folder: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_policy(folder, LoRA(), Sampling())


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_trained_on_is_refused(case: str, tiny_t5: str, tmp_path: Path) -> None:
    """And what the line proposes works: the two merged, or the base alone."""
    make, message = REFUSED[case]
    model = trained(opened(tiny_t5), make(tiny_t5))
    refused(save(model, tmp_path / "theirs"), message)
    with pytest.raises(InputError) as caught:
        load_policy(str(tmp_path / "theirs"), LoRA(), Sampling())
    if "merge_and_unload" not in str(caught.value):
        assert tiny_t5 in str(caught.value)
        load_policy(tiny_t5, LoRA(r=2), Sampling())
        return
    expected = logprobs(model)
    merged = save(model.float().merge_and_unload(), tmp_path / "merged")
    assert close(said(load_policy(merged, LoRA(r=2), Sampling()).double()), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_lora_weights": "corda"}, "init_lora_weights: corda changed the base"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights: loftq changed the base"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights: lora_ga changed the base"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "its layer_replication is not supported"),
        ({"peft_type": "XLORA"}, "kind XLORA, which works beside"),
        ({"peft_type": "POLY"}, "kind POLY, which works beside"),
    ],
)
def test_a_config_is_enough_to_refuse_it(
    tiny_t5: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Before any weights are opened: there are none."""
    config = {"peft_type": "LORA", "base_model_name_or_path": tiny_t5, **changes}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    refused(str(tmp_path), message)


def test_without_a_reference_biases_may_be_trained(tiny_t5: str, tmp_path: Path) -> None:
    folder = save(trained(opened(tiny_t5), lora(bias="all")(tiny_t5)), tmp_path)
    expected = logprobs(PeftModel.from_pretrained(opened(tiny_t5), folder))
    assert close(logprobs(ModelSource.resolve(folder).load(LoRA())), expected)


def test_tokens_that_were_added_need_a_model_of_both(tiny_t5: str, tmp_path: Path) -> None:
    base = opened(tiny_t5)
    base.resize_token_embeddings(203)
    model = trained(base, lora()(tiny_t5), embeddings)
    folder = save(model, tmp_path / "theirs", save_embedding_layers=True)
    refused(folder, r"has embeddings of 203 tokens, and its base .* of 200: .*\(203\) of the base")
    bigger = opened(tiny_t5)
    bigger.resize_token_embeddings(203)
    merged = PeftModel.from_pretrained(bigger, folder).merge_and_unload()
    expected = logprobs(model)
    name = save(merged, tmp_path / "merged")
    assert close(said(load_policy(name, LoRA(r=2), Sampling()).double()), expected)


@pytest.mark.parametrize("flag", ["modules_to_save", "target_modules"])
def test_a_fresh_adapter_on_words_that_nobody_asks_is_refused(tiny_t5: str, flag: str) -> None:
    given: dict[str, Any] = {flag: ["shared"]}
    with pytest.raises(InputError, match=rf"lora.{flag}: .*'shared'.* Give 'embed_tokens' instead"):
        add_lora(opened(tiny_t5), LoRA(r=2, **given), "SEQ_2_SEQ_LM")
    given = {flag: ["embed_tokens"]}
    policy = load_policy(tiny_t5, LoRA(r=2, **given), Sampling())
    policy(IDS, MASK, RESPONSES).logprobs.sum().backward()
    learns = {name: x for name, x in policy.model.named_parameters() if x.requires_grad}
    assert any("embed_tokens" in name for name in learns)
    assert all(x.grad is not None for x in learns.values())


@pytest.mark.parametrize(
    "option",
    [
        {"layer_replication": [[0, 2], [1, 2]]},
        {"kasa_config": {}},
        {"alora_invocation_tokens": [5]},
    ],
)
def test_a_fresh_adapter_leaves_its_base_alone(tiny_t5: str, option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InputError, match=rf"lora.options.{name}=.*: this changes the base"):
        load_policy(tiny_t5, LoRA(r=2, options=option), Sampling())


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        (lora(), {"save_embedding_layers": True}, "embeddings that aren't its base's"),
        (other("IA3Config", feedforward_modules=[]), {}, "its kind, IA3"),
    ],
)
def test_a_checkpoint_that_is_not_all_of_an_adapter(
    tiny_t5: str,
    tmp_path: Path,
    make: Callable[[str], Any],
    options: dict[str, Any],
    why: str,
) -> None:
    folder = save(trained(opened(tiny_t5), make(tiny_t5), embeddings), tmp_path / "a", **options)
    policy = load_policy(folder, LoRA(), Sampling())
    learns = {f"policy.model.{n}": p for n, p in policy.model.named_parameters() if p.requires_grad}
    facts = {"stage": "ppo", "base": tiny_t5, "adapter": to_plain(adapter_facts(policy.model))}
    torch.save({"state_dict": learns, "detox_lightning": facts}, tmp_path / "last.ckpt")
    refused(str(tmp_path / "last.ckpt"), rf"isn't all of its adapter, because of {why}\. Make a f")


def test_embeddings_that_are_the_base_s_own_are_not_written_again(
    tiny_t5: str, tmp_path: Path
) -> None:
    model = trained(opened(tiny_t5), lora()(tiny_t5))
    policy = load_policy(save(model, tmp_path / "a", save_embedding_layers=True), None, Sampling())
    save_model(policy.model, word_tokenizer(), tmp_path / "b")
    size = {name: (tmp_path / name / "adapter_model.safetensors").stat().st_size for name in "ab"}
    assert size["b"] < size["a"] / 2


def test_what_can_not_be_merged_is_said(tiny_t5: str, tmp_path: Path) -> None:
    folder = save(trained(opened(tiny_t5), lora(lora_bias=True)(tiny_t5)), tmp_path / "a")
    with pytest.raises(InputError, match=r"merged: this adapter can't be merged: .* holds it"):
        save_merged(Path(folder), tmp_path / "merged", "AutoModelForSeq2SeqLM")

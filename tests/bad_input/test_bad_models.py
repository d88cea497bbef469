"""Models, adapters, tokenizers and classifiers that can't be used."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from bad_input.cases import Case, Place, check
from conftest import tiny_t5_model, word_tokenizer

POLICY = "--model.policy={folder}/other"
REWARD = "--model.reward.model={folder}/other"


def other(place: Place, source: str | None = None) -> Path:
    """A copy of a model, to spoil."""
    folder = place.folder / "other"
    shutil.copytree(source or place.policy, folder)
    return folder


def configured(place: Place, source: str | None = None, **options: object) -> None:
    """A copy whose config says something else."""
    file = other(place, source) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


def without(place: Place, *patterns: str) -> None:
    folder = other(place)
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def torn(place: Place, source: str | None = None) -> None:
    file = other(place, source) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def pickled(place: Place) -> None:
    folder = other(place)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapter(place: Place, base: str, rank: int = 4, width: int = 32) -> None:
    folder = place.folder / "adapter"
    folder.mkdir()
    facts = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": rank, "lora_alpha": 4}
    facts |= {"target_modules": ["q", "v"], "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_{}.weight"
    tensors = {name.format("A"): torch.zeros(rank, width), name.format("B"): torch.zeros(32, rank)}
    save_file(tensors, folder / "adapter_model.safetensors")


def of_gpt2(place: Place) -> None:
    folder = place.folder / "gpt2"
    config = GPT2Config(
        vocab_size=200, n_embd=16, n_layer=1, n_head=2, eos_token_id=1, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    adapter(place, str(folder))


def small_embedding(place: Place) -> None:
    folder = other(place)
    model = tiny_t5_model()
    model.resize_token_embeddings(100)
    model.save_pretrained(folder)


def mute_tokenizer(place: Place, *names: str) -> None:
    folder = other(place)
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in facts.items() if k not in names}))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def mamba(place: Place) -> None:
    config = MambaConfig(vocab_size=200, hidden_size=16, num_hidden_layers=1, state_size=4)
    config.architectures = ["MambaForCausalLM"]
    MambaForCausalLM(config).save_pretrained(place.folder / "other")
    word_tokenizer().save_pretrained(place.folder / "other")


def coded(place: Place) -> None:
    configured(
        place,
        model_type="mine",
        auto_map={
            "AutoConfig": "mine.MineConfig",
            "AutoModelForSeq2SeqLM": "mine.Mine",
        },
    )
    (place.folder / "other" / "mine.py").write_text("raise SystemError('ran')\n")


CASES = [
    Case("a policy that is not there", ("--model.policy=no/such",), ""),
    Case("a policy of three parts", ("--model.policy=no/such/thing",), ""),
    Case("an empty folder", (POLICY,), "", lambda p: (p.folder / "other").mkdir()),
    Case("a policy that is a file", ("--model.policy={folder}/train.jsonl",), ""),
    Case("a folder without weights", (POLICY,), "", lambda p: without(p, "*.safetensors")),
    Case("torn weights", (POLICY,), "", torn),
    Case("pickled weights", (POLICY,), "", pickled),
    Case(
        "a config that is not JSON",
        (POLICY,),
        "",
        lambda p: (other(p) / "config.json").write_text("{not"),
    ),
    Case("a kind of model nobody knows", (POLICY,), "", lambda p: configured(p, model_type="t6")),
    Case("a classifier as policy", ("--model.policy={classifier}",), ""),
    Case(
        "an encoder as policy",
        (POLICY,),
        "",
        lambda p: configured(p, p.classifier, architectures=["BertModel"]),
    ),
    Case("a state-space model", (POLICY,), "", mamba),
    Case("code that comes with a model", (POLICY,), "", coded),
    Case("a model without a tokenizer", (POLICY,), "", lambda p: without(p, "tokenizer*", "spec*")),
    Case("a tokenizer with more tokens than the model", (POLICY,), "", small_embedding),
    Case(
        "a tokenizer without padding or end",
        (POLICY,),
        "",
        lambda p: mute_tokenizer(p, "pad_token", "eos_token"),
    ),
    Case(
        "a tokenizer file that is not JSON",
        (POLICY,),
        "",
        lambda p: (other(p) / "tokenizer.json").write_text("{not"),
    ),
    Case("data's tokenizer that is not there", ("--data.tokenizer=no/such",), ""),
    Case("an adapter that is not there", ("--model.adapter=no/such",), ""),
    Case("no adapter in a folder", ("--model.adapter={policy}",), ""),
    Case(
        "an adapter of another width",
        ("--model.adapter={folder}/adapter",),
        "",
        lambda p: adapter(p, p.policy, width=64),
    ),
    Case("an adapter of another kind", ("--model.policy={folder}/adapter",), "", of_gpt2),
    Case(
        "half an adapter",
        ("--model.adapter={folder}/adapter",),
        "",
        lambda p: adapter(p, p.policy),
    ),
    Case(
        "an adapter whose base is gone",
        ("--model.policy={folder}/adapter",),
        "",
        lambda p: adapter(p, "/gone/base"),
    ),
    Case(
        "two adapters",
        ("--model.policy={folder}/adapter", "--model.adapter={folder}/adapter"),
        "",
        lambda p: adapter(p, p.policy),
    ),
    Case("a reward that is not there", ("--model.reward.model=no/such",), ""),
    Case("a language model as classifier", ("--model.reward.model={policy}",), ""),
    Case("torn weights of a classifier", (REWARD,), "", lambda p: torn(p, p.classifier)),
    Case("a label that a classifier has not", ("--model.reward.label=kind",), ""),
    Case("no label for two outputs", ("--model.reward.label=null",), ""),
    Case("a measure that is not there", ("--model.evaluation.toxicity_model=no/such",), ""),
    Case(
        "a toxic label that is not there", ("--model.evaluation.toxic_label=rude",), "", verb="test"
    ),
    Case(
        "a second measure that is not there",
        ("--model.evaluation.second_toxicity_model=no/such",),
        "",
        verb="test",
    ),
    Case(
        "a perplexity model that reads no text alone",
        ("--model.evaluation.perplexity_model={classifier}",),
        "",
        verb="test",
    ),
    Case("layers that are not there", ("--model.lora.target_modules=[nix]",), ""),
    Case("an option that peft has not", ('--model.lora.options={"ranks": 3}',), ""),
    Case("an attention that is not there", ("--model.weights.attn_implementation=fastest",), ""),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_that_can_t_be_used(case: Case, place: Place) -> None:
    check(case, place)

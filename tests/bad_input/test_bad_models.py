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
    Case(
        "a policy that is not there",
        ("--model.policy=no/such",),
        "can't open the config of 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here",
    ),
    Case(
        "a policy of three parts",
        ("--model.policy=no/such/thing",),
        "can't open the model 'no/such/thing': there is no such folder; check the path",
    ),
    Case(
        "an empty folder",
        (POLICY,),
        "can't open the config of '{folder}/other': the folder is empty. Give "
        "one in Hugging Face format with safetensors",
        lambda p: (p.folder / "other").mkdir(),
    ),
    Case(
        "a policy that is a file",
        ("--model.policy={folder}/train.jsonl",),
        "can't open the model '{folder}/train.jsonl': this is a file. Give a "
        "folder in Hugging Face format with safetensors",
    ),
    Case(
        "a folder without weights",
        (POLICY,),
        "can't open the model '{folder}/other': Error no file named "
        "model.safetensors found in directory {folder}/other. Give a folder in "
        "Hugging Face format with safetensors",
        lambda p: without(p, "*.safetensors"),
    ),
    Case(
        "torn weights",
        (POLICY,),
        "can't open the model '{folder}/other': its weights are torn (Error "
        "while deserializing header: invalid header length); copy or download "
        "them again",
        torn,
    ),
    Case(
        "pickled weights",
        (POLICY,),
        "can't open the model '{folder}/other': its weights are pickled "
        "(pytorch_model.bin), and opening such a file can run code. Write them "
        "as safetensors: from_pretrained, then save_pretrained, of transformers "
        "does",
        pickled,
    ),
    Case(
        "a config that is not JSON",
        (POLICY,),
        "can't open the config of '{folder}/other': It looks like the config "
        "file at '{folder}/other/config.json' is not a valid JSON file. Give a "
        "folder in Hugging Face format with safetensors",
        lambda p: (other(p) / "config.json").write_text("{not"),
    ),
    Case(
        "a kind of model nobody knows",
        (POLICY,),
        "can't open the config of '{folder}/other': The checkpoint you are "
        "trying to load has model type `t6` but Transformers does not recognize "
        "this architecture. This could be because of an issue with the "
        "checkpoint, or because your version of Transformers is out of date. "
        "Give a folder in Hugging Face format with safetensors",
        lambda p: configured(p, model_type="t6"),
    ),
    Case(
        "a classifier as policy",
        ("--model.policy={classifier}",),
        "the model '{classifier}' is a BertForSequenceClassification, which "
        "doesn't write text: give a model such as T5ForConditionalGeneration, "
        "GPT2LMHeadModel or LlamaForCausalLM",
    ),
    Case(
        "an encoder as policy",
        (POLICY,),
        "the model '{folder}/other' is a BertModel, which doesn't write text: "
        "give a model such as T5ForConditionalGeneration, GPT2LMHeadModel or "
        "LlamaForCausalLM",
        lambda p: configured(p, p.classifier, architectures=["BertModel"]),
    ),
    Case(
        "a state-space model",
        (POLICY,),
        "the model '{folder}/other' is of the kind mamba, which keeps a state instead of "
        "attending to what came before: such models are not supported. Give one such as GPT-2, "
        "Llama or T5",
        mamba,
    ),
    Case(
        "code that comes with a model",
        (POLICY,),
        "can't open the config of '{folder}/other': it brings code of its own, "
        "which is not run unasked. If you have read it and trust it, give "
        "--model.weights.trust_remote_code=true",
        coded,
    ),
    Case(
        "a model without a tokenizer",
        (POLICY,),
        "can't open the tokenizer '{folder}/other': the folder has none of its "
        "files, such as tokenizer.json; copy them from the base model, or give "
        "--data.tokenizer",
        lambda p: without(p, "tokenizer*", "spec*"),
    ),
    Case(
        "a tokenizer with more tokens than the model",
        (POLICY,),
        "the model '{folder}/other' knows 100 tokens, and its tokenizer makes "
        "200: it is another model's. Give --data.tokenizer, or the folder that "
        "both were saved in",
        small_embedding,
    ),
    Case(
        "a tokenizer without padding or end",
        (POLICY,),
        "--data.tokenizer={folder}/other: it has no end-of-sequence token; set one",
        lambda p: mute_tokenizer(p, "pad_token", "eos_token"),
    ),
    Case(
        "a tokenizer file that is not JSON",
        (POLICY,),
        "can't open the tokenizer '{folder}/other': Expecting property name "
        "enclosed in double quotes: line 1 column 2 (char 1). Give a folder in "
        "Hugging Face format with safetensors",
        lambda p: (other(p) / "tokenizer.json").write_text("{not"),
    ),
    Case(
        "data's tokenizer that is not there",
        ("--data.tokenizer=no/such",),
        "can't open the tokenizer 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here",
    ),
    Case(
        "an adapter that is not there",
        ("--model.adapter=no/such",),
        "can't open the adapter 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here",
    ),
    Case(
        "no adapter in a folder",
        ("--model.adapter={policy}",),
        "can't open the adapter '{policy}': it has no file adapter_model.safetensors. "
        "Give a folder in Hugging Face format with safetensors",
    ),
    Case(
        "an adapter of another width",
        ("--model.adapter={folder}/adapter",),
        "the adapter '{folder}/adapter' doesn't fit the base '{policy}': size "
        "mismatch for "
        "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight: "
        "copying a param with shape torch.Size([4, 64]) from checkpoint, the "
        "shape in current model is torch.Size([4, 32]). Give the base that the "
        "adapter was trained on, or the adapter alone.",
        lambda p: adapter(p, p.policy, width=64),
    ),
    Case(
        "an adapter of another kind",
        ("--model.policy={folder}/adapter",),
        "the adapter '{folder}/adapter' doesn't fit the base '{folder}/gpt2': "
        "gpt2 has no layers of its names. Give the base that the adapter was "
        "trained on, or the adapter alone.",
        of_gpt2,
    ),
    Case(
        "half an adapter",
        ("--model.adapter={folder}/adapter",),
        "the adapter '{folder}/adapter' doesn't fit the base '{policy}': "
        "base_model.model.encoder.block.0.layer.0.SelfAttention.v.lora_A.weight "
        "is in one of them and not in the other. Give the base that the adapter "
        "was trained on, or the adapter alone.",
        lambda p: adapter(p, p.policy),
    ),
    Case(
        "an adapter whose base is gone",
        ("--model.policy={folder}/adapter",),
        "can't open the config of '/gone/base': there is no such folder; check the path",
        lambda p: adapter(p, "/gone/base"),
    ),
    Case(
        "two adapters",
        ("--model.policy={folder}/adapter", "--model.adapter={folder}/adapter"),
        "model.adapter={folder}/adapter: model.policy={folder}/adapter is an "
        "adapter itself; give its base there ({policy})",
        lambda p: adapter(p, p.policy),
    ),
    Case(
        "a reward that is not there",
        ("--model.reward.model=no/such",),
        "can't open the tokenizer 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here",
    ),
    Case(
        "a language model as classifier",
        ("--model.reward.model={policy}",),
        "the model '{policy}' is a T5ForConditionalGeneration, which doesn't "
        "classify texts: give one such as RobertaForSequenceClassification",
    ),
    Case(
        "torn weights of a classifier",
        (REWARD,),
        "can't open the model '{folder}/other': its weights are torn (Error "
        "while deserializing header: invalid header length); copy or download "
        "them again",
        lambda p: torn(p, p.classifier),
    ),
    Case(
        "a label that a classifier has not",
        ("--model.reward.label=kind",),
        "label 'kind': the classifier '{classifier}' has the labels nothate, hate",
    ),
    Case(
        "no label for two outputs",
        ("--model.reward.label=null",),
        "model.evaluation.toxicity_model: the reward has no classifier with "
        "labels; name one that measures toxicity",
    ),
    Case(
        "a measure that is not there",
        ("--model.evaluation.toxicity_model=no/such",),
        "can't open the tokenizer 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here",
    ),
    Case(
        "a toxic label that is not there",
        ("--model.evaluation.toxic_label=rude",),
        "model.evaluation.toxic_label: label 'rude': the classifier "
        "'{classifier}' has the labels nothate, hate",
        verb="test",
    ),
    Case(
        "a second measure that is not there",
        ("--model.evaluation.second_toxicity_model=no/such",),
        "can't open the tokenizer 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here",
        verb="test",
    ),
    Case(
        "a perplexity model that reads no text alone",
        ("--model.evaluation.perplexity_model={classifier}",),
        "the model '{classifier}' is a BertForSequenceClassification, which "
        "doesn't write text alone: give one such as GPT2LMHeadModel",
        verb="test",
    ),
    Case(
        "layers that are not there",
        ("--model.lora.target_modules=[nix]",),
        "lora.target_modules: t5 has no layer that ends in 'nix'; its linear "
        "layers end in k, lm_head, o, q, v, wi_0, wi_1, wo.",
    ),
    Case(
        "an option that peft has not",
        ('--model.lora.options={"ranks": 3}',),
        "lora: peft can't put this adapter on t5: LoraConfig.__init__() got an "
        "unexpected keyword argument 'ranks'. Settings of peft.LoraConfig go "
        "into lora.options, names of layers into lora.target_modules; the linear "
        "ones here: k, lm_head, o, q, v, wi_0, wi_1, wo.",
    ),
    Case(
        "an attention that is not there",
        ("--model.weights.attn_implementation=fastest",),
        "can't open the model '{policy}': --model.weights.attn_implementation: "
        'Specified `attn_implementation="fastest"` is not supported. The only '
        'possible arguments are `attn_implementation="eager"`, `"paged|eager"`, '
        '`"attn_implementation=sdpa"`, `"attn_implementation=flex_attention"`.',
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_that_can_t_be_used(case: Case, place: Place) -> None:
    check(case, place)

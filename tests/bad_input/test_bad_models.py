"""Models and tokenizers that can't be used."""

import pytest

from bad_input.cases import Case, Place, check
from bad_input.spoilt_models import (
    coded,
    configured,
    mamba,
    mute_tokenizer,
    other,
    pickled,
    prefixed,
    small_embedding,
    torn,
    without,
)

POLICY = "--model.policy={folder}/other"

CASES = [
    Case(
        "a policy that is not there",
        ("--model.policy=no/such",),
        "can't open the config of 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here. HF_HUB_OFFLINE=1 "
        "reads the cache alone, without waiting for the hub",
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
        "can't open the model '{folder}/other': it has neither "
        "model.safetensors nor pytorch_model.bin. Give a folder in Hugging Face "
        "format with safetensors",
        lambda p: without(p, "*.safetensors"),
    ),
    Case(
        "torn weights",
        (POLICY,),
        "can't open the model '{folder}/other': its weights are damaged (Error "
        "while deserializing header: invalid header length); copy or download "
        "them again",
        torn,
    ),
    Case(
        "pickled weights with more than tensors",
        (POLICY,),
        "can't open the model '{folder}/other': its weights are pickled "
        "(pytorch_model.bin), and they are damaged, or not tensors alone, which could run code "
        "when opened. Copy or download them again, or write them as safetensors: "
        "from_pretrained, then save_pretrained, of transformers does",
        pickled,
    ),
    Case(
        "weights under another prefix",
        (POLICY,),
        "can't open the model '{folder}/other': weights are missing from its "
        "files, and would be random numbers: shared.weight, "
        "encoder.embed_tokens.weight, "
        "encoder.block.0.layer.0.SelfAttention.q.weight, … (54 in all). The names "
        "there begin with 'module.', as those of torch.nn.DataParallel or "
        "DistributedDataParallel do: remove the prefix from them, and save them "
        "again",
        lambda p: prefixed(p, "module."),
    ),
    Case(
        "a config of more layers than there are",
        (POLICY,),
        "can't open the model '{folder}/other': weights are missing from its "
        "files, and would be random numbers: "
        "encoder.block.2.layer.0.SelfAttention.q.weight, "
        "encoder.block.2.layer.0.SelfAttention.k.weight, "
        "encoder.block.2.layer.0.SelfAttention.v.weight, … (9 in all). Give a "
        "model that was saved with them: copy or download it again, or correct its "
        "config.json if that names too many",
        lambda p: configured(p, num_layers=3),
    ),
    Case(
        "a config of another size",
        (POLICY,),
        "can't open the model '{folder}/other': its weights have other shapes "
        "than its config.json says: lm_head.weight is [200, 32] in the files and "
        "[300, 32] by the config, shared.weight is [200, 32] in the files and "
        "[300, 32] by the config. Give the config that they were saved with",
        lambda p: configured(p, vocab_size=300),
    ),
    Case(
        "a config that names code on the hub",
        (POLICY,),
        "can't open the config of '{folder}/other': its config.json names code on "
        "the hub (_attn_implementation: evil/kernel), which runs only if you ask for it. "
        "Remove the field, or, if you trust it, give "
        "--model.weights.trust_remote_code=true",
        lambda p: configured(p, _attn_implementation="evil/kernel"),
    ),
    Case(
        "a config that is not JSON",
        (POLICY,),
        "can't open the config of '{folder}/other': config.json is not JSON "
        "(Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)); copy or download it again",
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
        "doesn't write text: give one such as T5ForConditionalGeneration, "
        "GPT2LMHeadModel or LlamaForCausalLM",
    ),
    Case(
        "an encoder as policy",
        (POLICY,),
        "the model '{folder}/other' is a BertModel, which doesn't write text: "
        "give one such as T5ForConditionalGeneration, GPT2LMHeadModel or "
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
        "which runs only if you ask for it. If you have read it and trust it, give "
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
        "the model '{folder}/other' has embeddings of 100 tokens, and its tokenizer has "
        "200: that is another model's. Give --data.tokenizer, or the folder that "
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
        "can't open the tokenizer '{folder}/other': tokenizer.json is not JSON "
        "(Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)); copy or download it again",
        lambda p: (other(p) / "tokenizer.json").write_text("{not"),
    ),
    Case(
        "data's tokenizer that is not there",
        ("--data.tokenizer=no/such",),
        "can't open the tokenizer 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here. HF_HUB_OFFLINE=1 "
        "reads the cache alone, without waiting for the hub",
    ),
]


@pytest.mark.quick(5)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_that_can_t_be_used(case: Case, place: Place) -> None:
    check(case, place)

"""Adapters, classifiers and measures that can't be used."""

import pytest

from bad_input.cases import Case, Place, check
from bad_input.spoilt_models import adapter, of_gpt2, on_another, torn

REWARD = "--model.reward.model={folder}/other"

CASES = [
    Case(
        "an adapter that is not there",
        ("--model.adapter=no/such",),
        "can't open the adapter 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here. HF_HUB_OFFLINE=1 "
        "reads the cache alone, without waiting for the hub",
    ),
    Case(
        "no adapter in a folder",
        ("--model.adapter={policy}",),
        "can't open the adapter '{policy}': it has neither "
        "adapter_model.safetensors nor adapter_model.bin. Give a folder in "
        "Hugging Face format with safetensors",
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
        "an adapter that names no base",
        ("--model.policy={folder}/adapter",),
        "can't open the model '{folder}/adapter': its adapter_config.json names "
        "no base (base_model_name_or_path: 3). Write the base's folder or hub id "
        "there, or give the base and --model.adapter",
        lambda p: adapter(p, 3),
    ),
    Case(
        "an adapter on an adapter",
        ("--model.policy={folder}/adapter",),
        "can't open the model '{folder}/first': it is an adapter, and a whole "
        "model is wanted here. Merge it into its base (merge_and_unload of peft, "
        "then save_pretrained), and give that folder",
        on_another,
    ),
    Case(
        "learned prompts",
        ("--model.policy={folder}/adapter",),
        "can't open the adapter '{folder}/adapter': it is of the kind PREFIX_TUNING, which works "
        "beside the model's layers and can't be trained further here. Give its base ({policy}) "
        "instead, and train a LoRA",
        lambda p: adapter(p, p.policy, peft_type="PREFIX_TUNING"),
    ),
    Case(
        "an adapter that can't be opened as it was trained",
        ("--model.adapter={folder}/adapter",),
        "can't open the adapter '{folder}/adapter': its init_lora_weights: pissa_niter_4 changed "
        "the base that it was trained on, in a way that can't be repeated when it is opened. Merge "
        "it into its base (merge_and_unload of peft, then save_pretrained, also of the tokenizer), "
        "and give that folder instead, in the program that trained it",
        lambda p: adapter(p, p.policy, init_lora_weights="pissa_niter_4"),
    ),
    Case(
        "an adapter with biases of its base",
        ("--model.policy={folder}/adapter",),
        "can't open the adapter '{folder}/adapter': it was trained with bias: all, which changes "
        "parameters of the base itself, and the reference has the same base. Merge it into its "
        "base (merge_and_unload of peft, then save_pretrained, also of the tokenizer), and give "
        "that folder instead",
        lambda p: adapter(p, p.policy, bias="all"),
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
        "can't open the config of 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here. HF_HUB_OFFLINE=1 "
        "reads the cache alone, without waiting for the hub",
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
        "can't open the model '{folder}/other': its weights are damaged (Error "
        "while deserializing header: invalid header length); copy or download "
        "them again",
        lambda p: torn(p, p.classifier),
    ),
    Case(
        "a label that a classifier has not",
        ("--model.reward.label=kind",),
        "model.reward.label 'kind': the classifier '{classifier}' has the labels nothate, hate",
    ),
    Case(
        "no label for two outputs",
        ("--model.reward.label=null",),
        "model.reward.label null: the classifier '{classifier}' has several labels, nothate, hate: "
        "name one of them",
    ),
    Case(
        "a measure that is not there",
        ("--model.evaluation.toxicity_model=no/such",),
        "can't open the config of 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here. HF_HUB_OFFLINE=1 "
        "reads the cache alone, without waiting for the hub",
    ),
    Case(
        "a toxic label that is not there",
        ("--model.evaluation.toxic_label=rude",),
        "model.evaluation.toxic_label 'rude': the classifier "
        "'{classifier}' has the labels nothate, hate",
        verb="test",
    ),
    Case(
        "a second measure that is not there",
        ("--model.evaluation.second_toxicity_model=no/such",),
        "can't open the config of 'no/such': there is no such folder here, nor a "
        "copy in the cache, and the hub can't be reached. Where it can be: hf "
        "download no/such --local-dir FOLDER; then give that folder here. HF_HUB_OFFLINE=1 "
        "reads the cache alone, without waiting for the hub",
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


@pytest.mark.quick(5)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_put_on_a_model_or_measures_it_and_can_t_be_used(case: Case, place: Place) -> None:
    check(case, place)

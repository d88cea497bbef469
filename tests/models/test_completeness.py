"""Weights that are missing from a model's files, or have no place in it, are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertForMaskedLM,
    BitsAndBytesConfig,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from architectures import save_random
from conftest import tiny_bert_config, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.evaluation.perplexity import Perplexity
from detox_lightning.models import model_files
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.loading import load_model
from detox_lightning.stages.reward import RewardModule

SEQ2SEQ, CAUSAL = "AutoModelForSeq2SeqLM", "AutoModelForCausalLM"
CLASSIFIER = "AutoModelForSequenceClassification"
Tensors = dict[str, torch.Tensor]
REMEDY = "Give a model that was saved with them: copy or download it again, or correct its "
REMEDY += "config.json if that names too many"


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    model_files.warn_once.cache_clear()


def saved(source: str, folder: Path, change: Callable[[Tensors], Tensors], **config: Any) -> str:
    """A copy of a model whose files hold other weights, and whose config says something else."""
    shutil.copytree(source, folder)
    weights = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in change(load_file(weights)).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return str(folder)


def same(tensors: Tensors) -> Tensors:
    return tensors


def under(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


def beside(**shapes: tuple[int, ...]) -> Callable[[Tensors], Tensors]:
    added = {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}
    return lambda tensors: {**tensors, **added}


def refused(load: Callable[[str], object], name: str) -> str:
    with pytest.raises(InputError) as raised:
        load(name)
    text = str(raised.value)
    assert text.startswith(f"can't open the model {name!r}: ")
    return text.removeprefix(f"can't open the model {name!r}: ")


def classify(name: str) -> None:
    TextClassifier(name).load()


def write(name: str) -> None:
    load_model(SEQ2SEQ, name)


PREFIXES = {
    "module.": "torch.nn.DataParallel or DistributedDataParallel",
    "model.": "a module that holds the model, such as a LightningModule",
    "_orig_mod.": "torch.compile",
    "base_model.model.": "peft, without merging the adapter",
    "module._orig_mod.": "torch.compile",
    "their.": None,
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["policy", "classifier"])
def test_a_prefix_is_named(
    prefix: str, kind: str, tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    source = tiny_t5 if kind == "policy" else tiny_classifier
    said = refused(
        write if kind == "policy" else classify, saved(source, tmp_path / "it", under(prefix))
    )
    whence = f", as those of {PREFIXES[prefix]} do" if PREFIXES[prefix] else ""
    assert said.startswith("weights are missing from its files, and would be random numbers: ")
    assert said.endswith(
        f" in all). The names there begin with {prefix!r}{whence}: remove the prefix from them, "
        "and save them again"
    )


CLASSIFIERS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no head": (without("classifier."), f"classifier.weight, classifier.bias. {REMEDY}"),
    "another head": (
        renamed("classifier.", "score."),
        "classifier.weight, classifier.bias. There are others that it has no place for: "
        "score.bias, score.weight. Give a model that was saved with this head and config.json",
    ),
    "half of it": (
        without("encoder.layer.1."),
        "bert.encoder.layer.1.attention.self.query.weight, "
        "bert.encoder.layer.1.attention.self.query.bias, "
        f"bert.encoder.layer.1.attention.self.key.weight, … (16 in all). {REMEDY}",
    ),
}


@pytest.mark.parametrize("fault", CLASSIFIERS)
def test_a_classifier_that_lacks_weights_is_refused(
    fault: str, tiny_classifier: str, tmp_path: Path
) -> None:
    change, said = CLASSIFIERS[fault]
    name = saved(tiny_classifier, tmp_path / "it", change)
    expected = f"weights are missing from its files, and would be random numbers: {said}"
    assert refused(classify, name) == expected


def test_an_encoder_without_a_kind_is_no_classifier(tiny_encoder: str, tmp_path: Path) -> None:
    name = saved(tiny_encoder, tmp_path / "it", same, architectures=None)
    assert "random numbers: classifier.weight, classifier.bias." in refused(classify, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_weight_of_a_policy_is_missed(dtype: str, tiny_t5: str, tmp_path: Path) -> None:
    name = saved(tiny_t5, tmp_path / "it", without("encoder.final_layer_norm"))
    said = refused(lambda name: load_model(SEQ2SEQ, name, dtype), name)
    assert said == (
        "weights are missing from its files, and would be random numbers: "
        f"encoder.final_layer_norm.weight. {REMEDY}"
    )


def with_head(tensors: Tensors) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["shared.weight"] + 1}


@pytest.mark.parametrize(
    ("change", "lacks"),
    [(same, "lm_head.weight"), (renamed("shared", "lm_head"), "shared.weight")],
)
def test_a_head_of_its_own_is_missed(
    change: Callable[[Tensors], Tensors], lacks: str, tmp_path: Path
) -> None:
    source = save_random("FLAN-T5", tmp_path)
    its_own = {"tie_word_embeddings": False}  # as FLAN-T5 says; the library ties all the same
    whole = load_model(SEQ2SEQ, saved(source, tmp_path / "whole", with_head, **its_own))
    assert torch.equal(whole.lm_head.weight, whole.shared.weight + 1)
    tied = load_model(SEQ2SEQ, saved(source, tmp_path / "tied", change))
    assert tied.lm_head.weight is tied.shared.weight
    name = saved(source, tmp_path / "damaged", change, **its_own)
    assert refused(lambda name: load_model(SEQ2SEQ, name), name) == (
        "weights are missing from its files, and by its config.json no others take their place "
        f"(tie_word_embeddings: false): {lacks}. Give a model that was saved with them: copy or "
        "download it again"
    )


def test_weights_of_a_quantized_model_are_missed(tiny_t5: str, tmp_path: Path) -> None:
    eight = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    load_model(SEQ2SEQ, tiny_t5, **eight)
    name = saved(tiny_t5, tmp_path / "it", without("encoder.block.1.layer.0.SelfAttention.q"))
    said = refused(lambda name: load_model(SEQ2SEQ, name, **eight), name)
    assert "random numbers: encoder.block.1.layer.0.SelfAttention.q.weight." in said


def test_a_perplexity_model_without_its_head_is_refused(tmp_path: Path) -> None:
    llama = save_random("Llama", tmp_path / "llama")
    name = saved(llama, tmp_path / "it", without("lm_head."))
    said = refused(lambda name: Perplexity(name).load(), name)
    assert "random numbers: lm_head.weight." in said
    tied = saved(llama, tmp_path / "tied", without("lm_head."), tie_word_embeddings=True)
    model = load_model(CAUSAL, tied)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_layers_and_config_must_agree(tiny_t5: str, tmp_path: Path) -> None:
    more = refused(write, saved(tiny_t5, tmp_path / "more", same, num_layers=3))
    assert more == (
        "weights are missing from its files, and would be random numbers: "
        "encoder.block.2.layer.0.SelfAttention.q.weight, "
        "encoder.block.2.layer.0.SelfAttention.k.weight, "
        f"encoder.block.2.layer.0.SelfAttention.v.weight, … (9 in all). {REMEDY}"
    )
    fewer = refused(write, saved(tiny_t5, tmp_path / "fewer", same, num_layers=1))
    assert fewer == (
        "its files hold weights for which its config.json has no place: "
        "encoder.block.1.layer.0.SelfAttention.k.weight, "
        "encoder.block.1.layer.0.SelfAttention.o.weight, "
        "encoder.block.1.layer.0.SelfAttention.q.weight, … (9 in all). Correct config.json "
        "(numbers of layers, biases, quantization), or merge an adapter first"
    )


@pytest.mark.parametrize(
    "surplus",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_proj.lora_A.default.weight",
        "model.layers.1.self_attn.q_proj.weight_scale",
    ],
)
def test_a_layers_further_weights_are_not_left_out(surplus: str, tmp_path: Path) -> None:
    """A bias, an adapter, a scale: the layer would say something else without it."""
    llama = save_random("Llama", tmp_path / "llama")
    name = saved(llama, tmp_path / "it", beside(**{surplus.replace(".", "__"): (2,)}))
    said = refused(lambda name: load_model(CAUSAL, name), name)
    assert said.startswith(
        f"its files hold weights for which its config.json has no place: {surplus}."
    )


def shapes(*found: tuple[str, list[int], list[int]]) -> str:
    told = [
        f"{name} is {there} in the files and {here} by the config" for name, there, here in found
    ]
    return (
        f"its weights have other shapes than its config.json says: {', '.join(told)}. Give the "
        "config that they were saved with"
    )


@pytest.mark.parametrize("rows", [300, 100, 10**13])  # the last: more than any memory
def test_other_sizes_are_named(rows: int, tiny_t5: str, tmp_path: Path) -> None:
    name = saved(tiny_t5, tmp_path / "it", same, vocab_size=rows)
    names = ("lm_head.weight", "shared.weight")
    assert refused(write, name) == shapes(*((one, [200, 32], [rows, 32]) for one in names))


def test_another_number_of_labels_is_named(tiny_classifier: str, tmp_path: Path) -> None:
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    name = saved(tiny_classifier, tmp_path / "it", same, **labels)
    assert refused(classify, name) == shapes(
        ("classifier.bias", [2], [3]), ("classifier.weight", [2, 32], [3, 32])
    )


HARMLESS = {
    "masks of old": {"transformer__h__0__attn__masked_bias": ()},
    "tables of old": {"transformer__h__0__attn__bias": (1, 1, 8, 8)},
    "nothing": {},
}


@pytest.mark.filterwarnings("error:.*weights are not used")
@pytest.mark.parametrize("what", HARMLESS)
def test_what_computes_nothing_may_be_there(what: str, tmp_path: Path) -> None:
    gpt2 = save_random("GPT-2", tmp_path / "gpt2")
    load_model(CAUSAL, saved(gpt2, tmp_path / "it", beside(**HARMLESS[what])))
    bare = saved(gpt2, tmp_path / "bare", renamed("transformer.", ""))  # as GPT-2's own are
    expected = load_model(CAUSAL, gpt2).state_dict()
    found = load_model(CAUSAL, bare).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_positions_that_are_computed_need_no_file(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60}
    sizes |= {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    pegasus = PegasusForConditionalGeneration(PegasusConfig(**sizes))
    pegasus.save_pretrained(tmp_path / "pegasus")
    bare = saved(str(tmp_path / "pegasus"), tmp_path / "bare", without("embed_positions"))
    found, expected = load_model(SEQ2SEQ, bare).state_dict(), pegasus.state_dict()
    assert any("embed_positions" in name for name in found)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_leftovers_of_a_library_are_told(tiny_encoder: str, tmp_path: Path) -> None:
    leftover = beside(bert__embeddings__word_embeddings___weight=(3, 3))  # as mDeBERTa's files have
    with pytest.warns(UserWarning, match=r"weights are not used: bert\..*embeddings\._weight$"):
        load_model("AutoModel", saved(tiny_encoder, tmp_path / "it", leftover))


def test_a_value_head_of_others_is_told_of_once(tmp_path: Path) -> None:
    gpt2 = save_random("GPT-2", tmp_path / "gpt2")
    head = beside(v_head__summary__weight=(1, 16), v_head__summary__bias=(1,))
    name = saved(gpt2, tmp_path / "it", head)
    with pytest.warns(
        UserWarning, match=f"^{name}: .* v_head.summary.bias, v_head.summary.weight$"
    ):
        load_model(CAUSAL, name)


@pytest.fixture
def masked_encoders(tmp_path: Path) -> list[str]:
    """Folders of encoders that were trained to fill gaps, which have heads of their own."""
    torch.manual_seed(0)
    small = {"vocab_size": 200, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    models = [
        BertForMaskedLM(tiny_bert_config()),
        DistilBertForMaskedLM(DistilBertConfig(**small, max_position_embeddings=64)),
    ]
    folders = [str(tmp_path / type(model).__name__) for model in models]
    for model, folder in zip(models, folders, strict=True):
        model.save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    return folders


def trained_from(name: str) -> RewardModule:
    module = RewardModule(name, ["nothate", "hate"])
    module.configure_model()
    return module


@pytest.mark.filterwarnings("error:.*weights are not used", "error:.*head is missing")
def test_the_reward_stage_begins_with_a_fresh_head(
    tiny_encoder: str, masked_encoders: list[str]
) -> None:
    for name in (tiny_encoder, *masked_encoders):
        words = trained_from(name).model.get_input_embeddings().weight
        weights = load_file(Path(name, "model.safetensors"))
        (own,) = (value for key, value in weights.items() if "word_embeddings" in key)
        assert torch.equal(words, own)


def test_a_classifiers_new_head_is_told_of(tiny_classifier: str, tmp_path: Path) -> None:
    name = saved(tiny_classifier, tmp_path / "it", without("classifier."))
    with pytest.warns(UserWarning, match=f"^{name}: its head is missing, and a new one is used"):
        trained_from(name)


def test_an_encoder_of_the_reward_stage_is_whole(tiny_encoder: str, tmp_path: Path) -> None:
    half = refused(trained_from, saved(tiny_encoder, tmp_path / "half", without("layer.1.")))
    assert "random numbers: bert.encoder.layer.1.attention.self.query.weight, " in half
    other = refused(trained_from, saved(tiny_encoder, tmp_path / "other", under("module.")))
    assert "random numbers: bert.embeddings.word_embeddings.weight, " in other
    assert "The names there begin with 'module.', as those of torch.nn.DataParallel" in other

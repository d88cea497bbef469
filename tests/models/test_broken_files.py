"""Broken configs, tokenizers and adapters: whatever a library raises, one line names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.adapters import adapter_base
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import load_config, load_model, load_tokenizer
from detox_lightning.models.lora import LoRA, add_lora, load_adapter
from detox_lightning.models.opening import open_by_name
from detox_lightning.models.policy import load_policy
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import VALUE_HEAD, ModelSource

SEQ2SEQ = "AutoModelForSeq2SeqLM"
GONE = object()
COMMIT = "0" * 40
DEEP = '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}"
AGAIN = "copy or download it again"
NO_OBJECTS = {
    "empty": ("", f" is not JSON (Expecting value: line 1 column 1 (char 0)); {AGAIN}"),
    "cut off": ('{"a": ', f" is not JSON (Expecting value: line 1 column 7 (char 6)); {AGAIN}"),
    "no text": (
        b"\xff\xfe",
        " is not JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); "
        f"{AGAIN}",
    ),
    "deep": (DEEP, f" is nested too deeply; {AGAIN}"),
    "a list": ("[1]", f" holds a list, where a JSON object is expected; {AGAIN}"),
    "null": ("null", f" holds null, where a JSON object is expected; {AGAIN}"),
    "a number": ("3", f" holds a number, where a JSON object is expected; {AGAIN}"),
    "a text": ('"x"', f" holds a text, where a JSON object is expected; {AGAIN}"),
}


@pytest.fixture(scope="module")
def adapter(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("adapter")
    model = add_lora(load_model(SEQ2SEQ, tiny_t5), LoRA(r=2), "SEQ_2_SEQ_LM")
    save_model(model, word_tokenizer(), folder)
    return str(folder)


@pytest.fixture
def copies(tiny_t5: str, adapter: str, tmp_path: Path) -> dict[str, Path]:
    """Folders to spoil."""
    sources = {"model": tiny_t5, "adapter": adapter}
    return {
        name: Path(shutil.copytree(source, tmp_path / name)) for name, source in sources.items()
    }


def change(file: Path, **fields: Any) -> None:
    facts = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: x for name, x in facts.items() if x is not GONE}))


def said(load: Callable[[str], object], folder: Path) -> str:
    with pytest.raises(InputError) as raised:
        load(str(folder))
    return str(raised.value)


def policy(name: str) -> None:
    load_policy(name, LoRA(), Sampling())


@pytest.mark.parametrize("content", NO_OBJECTS)
@pytest.mark.parametrize(
    ("file", "what", "load"),
    [
        ("config.json", "config of", load_config),
        ("tokenizer.json", "tokenizer", load_tokenizer),
        ("tokenizer_config.json", "tokenizer", load_tokenizer),
        ("special_tokens_map.json", "tokenizer", load_tokenizer),
        ("generation_config.json", "config of", policy),
        ("adapter_config.json", "model", policy),
    ],
)
def test_a_file_that_is_no_object_is_named(
    file: str, what: str, load: Callable[[str], Any], content: str, copies: dict[str, Path]
) -> None:
    folder = copies["adapter" if "adapter" in file else "model"]
    data, message = NO_OBJECTS[content]
    (folder / file).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert said(load, folder) == f"can't open the {what} '{folder}': {file}{message}"


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a vocabulary of words": (
        {"vocab_size": "many"},
        "config of '{folder}': config.json can't be used: Validation error for field 'vocab_size': "
        "TypeError: Field 'vocab_size' expected int, got str (value: 'many')",
    ),
    "less than no words": (
        {"vocab_size": -3},
        "model '{folder}': config.json and the weights can't be used: RuntimeError: Trying to "
        "create tensor with negative dimension -3: [-3, 32]",
    ),
    "a list of types": (
        {"model_type": ["t5"]},
        "config of '{folder}': config.json can't be used: TypeError: unhashable type: 'list'",
    ),
    "labels in a list": (
        {"id2label": [1]},
        "config of '{folder}': config.json can't be used: AttributeError: 'list' object has no "
        "attribute 'items'",
    ),
    "classes by number": (
        {"architectures": 3},
        "config of '{folder}': its config.json says architectures: 3, where a list of classes is "
        "expected, such as [T5ForConditionalGeneration]",
    ),
    "one class": (
        {"architectures": "T5ForConditionalGeneration"},
        "config of '{folder}': its config.json says architectures: 'T5ForConditionalGeneration', "
        "where a list of classes is expected, such as [T5ForConditionalGeneration]",
    ),
    "its attention from the hub": (
        {"_attn_implementation": "evil/kernel"},
        "config of '{folder}': its config.json names code on the hub (_attn_implementation: "
        "evil/kernel), which runs only if you ask for it",
    ),
    "its attention from the hub, in parts": (
        {"text_config": {"attn_implementation": {"": "paged|evil/kernel"}}},
        "config of '{folder}': its config.json names code on the hub (attn_implementation: "
        "paged|evil/kernel), which runs only if you ask for it",
    ),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_config_that_can_t_be_used(fault: str, copies: dict[str, Path]) -> None:
    fields, message = CONFIGS[fault]
    change(copies["model"] / "config.json", **fields)
    text = said(policy, copies["model"])
    assert text.startswith(f"can't open the {message.format(folder=copies['model'])}")
    assert "\n" not in text


def test_a_classifiers_attention_from_the_hub(tiny_classifier: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_classifier, tmp_path / "it"))
    change(folder / "config.json", _attn_implementation="evil/kernel")
    text = said(lambda name: TextClassifier(name).load(), folder)
    assert "names code on the hub (_attn_implementation: evil/kernel)" in text
    text = said(lambda name: load_model("AutoModelForSequenceClassification", name), folder)
    assert "names code on the hub (_attn_implementation: evil/kernel)" in text


TOKENIZERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no words": ("tokenizer.json", {"model": 3}, "Exception: data did not match any variant"),
    "nothing of it": ("tokenizer.json", {"added_tokens": GONE}, "KeyError: 'added_tokens'"),
    "a number as end": ("tokenizer_config.json", {"eos_token": 3}, "TypeError: Special token eos"),
    "a class by number": ("tokenizer_config.json", {"tokenizer_class": 3}, "AttributeError: 'int'"),
}


@pytest.mark.parametrize("fault", TOKENIZERS)
def test_a_tokenizer_that_can_t_be_used(fault: str, copies: dict[str, Path]) -> None:
    file, fields, reason = TOKENIZERS[fault]
    change(copies["model"] / file, **fields)
    assert said(load_tokenizer, copies["model"]).startswith(
        f"can't open the tokenizer '{copies['model']}': tokenizer.json and tokenizer_config.json "
        f"can't be used: {reason}"
    )


@pytest.mark.parametrize("limit", ["x", -1, 0])
def test_a_tokenizers_limit_is_a_number_of_tokens(limit: Any, copies: dict[str, Path]) -> None:
    change(copies["model"] / "tokenizer_config.json", model_max_length=limit)
    assert said(load_tokenizer, copies["model"]) == (
        f"can't open the tokenizer '{copies['model']}': its tokenizer_config.json says "
        f"model_max_length: {limit!r}, where a number of tokens is expected; correct it"
    )


@pytest.mark.parametrize("field", ["eos_token_id", "decoder_start_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", ["x", {}, [1, "x"], True, 1.5])
def test_tokens_of_a_generation_config_are_numbers(
    field: str, value: Any, copies: dict[str, Path]
) -> None:
    change(copies["model"] / "generation_config.json", **{field: value})
    assert said(policy, copies["model"]) == (
        f"can't open the config of '{copies['model']}': its generation_config.json says {field}: "
        f"{value!r}, where a token's number is expected; correct it"
    )


@pytest.mark.parametrize("start", [GONE, None, -5, 200])
def test_a_decoder_begins_with_a_token_that_there_is(start: Any, copies: dict[str, Path]) -> None:
    change(copies["model"] / "generation_config.json", decoder_start_token_id=start)
    change(copies["model"] / "config.json", decoder_start_token_id=GONE)
    told = None if start is GONE else start
    assert said(policy, copies["model"]) == (
        f"the model '{copies['model']}' doesn't say which of its 200 tokens its decoder begins "
        f"with (decoder_start_token_id: {told!r}): write it into its generation_config.json; T5's "
        "is its pad_token_id"
    )


@pytest.mark.parametrize("base", [GONE, None, 3, ["a"], "", {}])
def test_an_adapter_names_its_base(base: Any, copies: dict[str, Path]) -> None:
    change(copies["adapter"] / "adapter_config.json", base_model_name_or_path=base)
    told = None if base is GONE else base
    assert said(adapter_base, copies["adapter"]) == (
        f"can't open the model '{copies['adapter']}': its adapter_config.json names no base "
        f"(base_model_name_or_path: {told!r}). Write the base's folder or hub id there, or give "
        "the base and --model.adapter"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"peft_type": "NIX"}, "KeyError: 'NIX'"),
        ({"peft_type": GONE}, "KeyError: 'peft_type'"),
        ({"r": "x"}, "TypeError: '<=' not supported between instances of 'str' and 'int'"),
        ({"lora_alpha": None}, "TypeError: unsupported operand type(s) for /: 'NoneType'"),
    ],
)
def test_an_adapter_that_can_t_be_used(
    fields: dict[str, Any], reason: str, tiny_t5: str, copies: dict[str, Path]
) -> None:
    change(copies["adapter"] / "adapter_config.json", **fields)
    base = load_model(SEQ2SEQ, tiny_t5)
    assert said(lambda name: load_adapter(base, name), copies["adapter"]).startswith(
        f"can't open the adapter '{copies['adapter']}': adapter_config.json and the weights can't "
        f"be used: {reason}"
    )


def test_a_torn_value_head_is_named(copies: dict[str, Path]) -> None:
    (copies["model"] / VALUE_HEAD).write_bytes(b"torn")
    text = said(lambda name: ModelSource(name).load_value_head(), copies["model"])
    assert text.startswith(
        f"can't open the value head of '{copies['model']}': its weights are damaged ("
    )


def test_a_prefix_of_an_adapters_weights_is_named(tiny_t5: str, copies: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    file = copies["adapter"] / "adapter_model.safetensors"
    save_file({f"module.{name}": x for name, x in load_file(file).items()}, file)
    base = load_model(SEQ2SEQ, tiny_t5)
    text = said(lambda name: load_adapter(base, name), copies["adapter"])
    assert "The names there begin with 'module.', as those of torch.nn.DataParallel" in text


FULL = "DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("full"), RuntimeError(FULL)]
)
def test_memory_that_runs_out_is_no_mistake_in_a_file(error: Exception, tiny_t5: str) -> None:
    def fail(_: str) -> None:
        raise error

    with pytest.raises(type(error)):
        open_by_name("model", tiny_t5, fail)


def test_a_broken_file_of_the_hub_is_named(
    copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in the cache."""
    place = tmp_path / "models--somebody--it"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(copies["model"], place / "snapshots" / COMMIT)
    (place / "snapshots" / COMMIT / "tokenizer_config.json").write_text("[1]")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)

    def fail(_: str) -> None:
        raise TypeError("list indices must be integers")

    with pytest.raises(InputError) as raised:
        open_by_name("tokenizer", "somebody/it", fail)
    assert str(raised.value) == (
        "can't open the tokenizer 'somebody/it': tokenizer_config.json holds a list, where a JSON "
        f"object is expected; {AGAIN}"
    )

"""What others made is data: its pickles hold tensors alone, and its code doesn't run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.evaluation.perplexity import Perplexity
from detox_lightning.models.adapters import read_checkpoint
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.loading import Weights, load_config, load_model, load_tokenizer
from detox_lightning.models.lora import LoRA, add_lora, load_adapter

SEQ2SEQ, CLASSIFIER = "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification"
CODE = """from pathlib import Path
Path({marker!r}).touch()
import transformers
class Config(transformers.{config}): pass
class Model(transformers.{model}): pass
class Tokenizer(transformers.PreTrainedTokenizerFast): pass
"""


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What is there as soon as somebody's code has run."""
    return tmp_path / "ran"


@pytest.fixture
def tiny_gpt2(tmp_path: Path) -> str:
    config = GPT2Config(vocab_size=200, n_positions=32, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    word_tokenizer().save_pretrained(tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


def with_code(model: str, folder: Path, marker: Path, config: str, kind: str, auto: str) -> str:
    """A copy of a model whose config, weights and tokenizer ask for code that lies beside them.

    Its own type is one that transformers doesn't know, so that there is no other way to open it.
    """
    shutil.copytree(model, folder)
    (folder / "theirs.py").write_text(CODE.format(marker=str(marker), config=config, model=kind))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(
        CODE.format(marker=str(marker), config=config, model=kind)
    )
    for name, entries in {
        "config.json": {"AutoConfig": "theirs.Config", auto: "theirs.Model"},
        "tokenizer_config.json": {"AutoTokenizer": [None, "theirs.Tokenizer"]},
    }.items():
        facts = json.loads((folder / name).read_text())
        facts["auto_map"] = entries
        if name == "config.json":
            facts["model_type"] = "theirs"
        else:
            facts["tokenizer_class"] = "TheirTokenizer"
        (folder / name).write_text(json.dumps(facts))
    return str(folder)


@pytest.fixture
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sits at the terminal to say yes."""
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(f"asked: {prompt}"))


def test_the_code_would_run_if_it_were_asked_for(
    tiny_t5: str, tmp_path: Path, marker: Path
) -> None:
    """So that the tests below prove something."""
    folder = with_code(
        tiny_t5, tmp_path / "t5", marker, "T5Config", "T5ForConditionalGeneration", SEQ2SEQ
    )
    load_config(folder, **Weights(trust_remote_code=True).file_options)
    assert marker.exists()


OPENERS: dict[str, Callable[[str], Any]] = {
    "config": load_config,
    "tokenizer": load_tokenizer,
    "policy": lambda name: load_model(SEQ2SEQ, name, **Weights().options),
    "merging": lambda name: load_model(SEQ2SEQ, name, trust_remote_code=False),
}


@pytest.mark.parametrize("what", OPENERS)
@pytest.mark.usefixtures("never_asked")
def test_code_in_a_policys_folder_does_not_run(
    what: str, tiny_t5: str, tmp_path: Path, marker: Path
) -> None:
    folder = with_code(
        tiny_t5, tmp_path / "t5", marker, "T5Config", "T5ForConditionalGeneration", SEQ2SEQ
    )
    with pytest.raises(
        InputError, match="brings code of its own, which runs only if you ask for it"
    ):
        OPENERS[what](folder)
    assert not marker.exists()


@pytest.mark.usefixtures("never_asked")
def test_code_in_a_classifiers_folder_does_not_run(
    tiny_classifier: str, tmp_path: Path, marker: Path
) -> None:
    kind = "BertForSequenceClassification"
    folder = with_code(tiny_classifier, tmp_path / "bert", marker, "BertConfig", kind, CLASSIFIER)
    with pytest.raises(
        InputError, match="brings code of its own, which runs only if you ask for it"
    ):
        TextClassifier(folder).load()
    with pytest.raises(
        InputError, match="brings code of its own, which runs only if you ask for it"
    ):
        load_model(CLASSIFIER, folder)
    assert not marker.exists()


@pytest.mark.usefixtures("never_asked")
def test_code_in_a_perplexity_models_folder_does_not_run(
    tiny_gpt2: str, tmp_path: Path, marker: Path
) -> None:
    auto = "AutoModelForCausalLM"
    folder = with_code(tiny_gpt2, tmp_path / "p", marker, "GPT2Config", "GPT2LMHeadModel", auto)
    with pytest.raises(
        InputError, match="brings code of its own, which runs only if you ask for it"
    ):
        Perplexity(folder).load()
    with pytest.raises(
        InputError, match="brings code of its own, which runs only if you ask for it"
    ):
        load_model(auto, folder)
    assert not marker.exists()


@pytest.mark.parametrize("auto", [SEQ2SEQ, CLASSIFIER, "AutoModelForCausalLM"])
def test_a_pickled_model_with_a_payload_is_refused(
    auto: str, tiny_t5: str, tiny_classifier: str, tiny_gpt2: str, tmp_path: Path, marker: Path
) -> None:
    models = {SEQ2SEQ: tiny_t5, CLASSIFIER: tiny_classifier}
    folder = tmp_path / "pickled"
    shutil.copytree(models.get(auto, tiny_gpt2), folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(InputError) as raised:
        load_model(auto, str(folder))
    assert str(raised.value).startswith(
        f"can't open the model '{folder}': its weights are pickled (pytorch_model.bin), "
    )
    assert not marker.exists()


def test_a_pickled_adapter_with_a_payload_is_refused(
    tiny_t5: str, tmp_path: Path, marker: Path
) -> None:
    folder = tmp_path / "adapter"
    adapter = add_lora(load_model(SEQ2SEQ, tiny_t5), LoRA(r=2), "SEQ_2_SEQ_LM")
    adapter.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(InputError) as raised:
        load_adapter(load_model(SEQ2SEQ, tiny_t5), str(folder))
    assert str(raised.value).startswith(
        f"can't open the adapter '{folder}': its weights are pickled (adapter_model.bin), "
    )
    assert not marker.exists()


def test_a_checkpoint_of_others_is_opened_without_its_code(tmp_path: Path, marker: Path) -> None:
    file = tmp_path / "theirs.ckpt"
    torch.save({"detox_lightning": Bomb(marker)}, file)
    with pytest.raises(
        InputError, match="this is no checkpoint of detox_lightning, or a damaged one"
    ):
        read_checkpoint(str(file))
    assert not marker.exists()
    torch.load(file, weights_only=False)  # it would have
    assert marker.exists()

"""Opening by name, and what is said where it can't be."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models import loading
from detox_lightning.models.adapters import Base, adapter_base
from detox_lightning.models.loading import (
    load_model,
    load_tokenizer,
)
from detox_lightning.models.lora import LoRA, add_lora
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import ModelSource

SEQ2SEQ = "AutoModelForSeq2SeqLM"


def test_models_open_in_eval_mode_in_the_dtype_asked_for(tiny_t5: str) -> None:
    model = load_model(SEQ2SEQ, tiny_t5)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, tiny_t5_model().lm_head.weight)  # stayed untied
    model = load_model(SEQ2SEQ, tiny_t5, "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("no/such-model", str(tmp_path), "demo:nothing"):
        with pytest.raises(InputError, match=name):
            load_model(SEQ2SEQ, name)
        with pytest.raises(InputError, match=name):
            load_tokenizer(name)


def test_a_folder_that_is_gone_may_look_like_a_hub_id(tmp_path: Path) -> None:
    for name, said in {
        "runs/gone": "there is no such folder here, nor a copy in the cache",
        "runs/tiny/version_0/gone": "there is no such folder; check the path",
        str(tmp_path / "gone"): "there is no such folder; check the path",
    }.items():
        with pytest.raises(InputError) as caught:
            ModelSource.resolve(name) and load_model(SEQ2SEQ, name)
        assert str(caught.value).startswith(f"can't open the model {name!r}: {said}")
    with pytest.raises(InputError, match=f"can't open the model '{tmp_path}': (?!there is no)"):
        load_model(SEQ2SEQ, str(tmp_path))


def test_an_adapter_names_its_base(tiny_t5: str, tmp_path: Path) -> None:
    assert adapter_base(tiny_t5) is None
    assert adapter_base("no/such-model") is None
    save_model(
        add_lora(load_model(SEQ2SEQ, tiny_t5), LoRA(r=2), "SEQ_2_SEQ_LM"),
        word_tokenizer(),
        tmp_path,
    )
    assert adapter_base(str(tmp_path)) == Base(tiny_t5)


def test_an_adapters_base_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_t5_model().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = add_lora(load_model(SEQ2SEQ, "base"), LoRA(r=2), "SEQ_2_SEQ_LM")
    save_model(model, word_tokenizer(), "adapter")
    assert adapter_base("adapter") == Base(str(tmp_path / "base"))


def test_quantized_weights_go_where_the_trainer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """They can't move later; and a GPU that is there may not be the one that is asked for."""
    asked: list[dict[str, Any]] = []
    answer = SimpleNamespace(eval=torch.nn.Identity)
    monkeypatch.setattr(
        loading, "open_by_name", lambda *_, **options: asked.append(options) or answer
    )
    eight, four = (SimpleNamespace(load_in_4bit=bits == 4) for bits in (8, 4))
    for device in ("cpu", "cuda:3", "cuda"):
        load_model(SEQ2SEQ, "it", device=torch.device(device), quantization_config=eight)
        assert asked[-1]["device_map"] == {"": device}
    load_model(SEQ2SEQ, "it", quantization_config=eight)  # the library's choice: the current GPU
    assert "device_map" not in asked[-1]
    load_model(SEQ2SEQ, "it", device=torch.device("cpu"))
    assert "device_map" not in asked[-1]
    with pytest.raises(InputError, match=r"weights.quantization=4bit needs a CUDA GPU"):
        load_model(SEQ2SEQ, "it", device=torch.device("cpu"), quantization_config=four)


def test_a_model_with_half_a_generation_config_can_be_saved(tiny_t5: str, tmp_path: Path) -> None:
    """Older ones name a temperature and don't say that it is for sampling."""
    shutil.copytree(tiny_t5, tmp_path / "old")
    config = tmp_path / "old" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "temperature": 0.6}))
    model = load_model("AutoModelForSeq2SeqLM", str(tmp_path / "old"))
    save_model(model, word_tokenizer(), tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["do_sample"]) == (0.6, True)
    assert not load_model("AutoModelForSeq2SeqLM", tiny_t5).generation_config.do_sample

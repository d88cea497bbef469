"""Opening by name, and what is said where it can't be."""

from pathlib import Path

import pytest
import torch

from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.loading import (
    adapter_base,
    load_model,
    load_tokenizer,
    refuse_half,
    save_model,
)
from detox_lightning.models.lora import LoRA, add_lora

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


def test_only_safetensors_are_read(tiny_t5: str, tmp_path: Path) -> None:
    tiny_t5_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_t5_model().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_model(SEQ2SEQ, str(tmp_path))


def test_an_adapter_names_its_base(tiny_t5: str, tmp_path: Path) -> None:
    assert adapter_base(tiny_t5) is None
    assert adapter_base("no/such-model") is None
    save_model(
        add_lora(load_model(SEQ2SEQ, tiny_t5), LoRA(r=2), "SEQ_2_SEQ_LM"),
        word_tokenizer(),
        tmp_path,
    )
    assert adapter_base(str(tmp_path)) == tiny_t5


def test_an_adapters_base_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_t5_model().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = add_lora(load_model(SEQ2SEQ, "base"), LoRA(r=2), "SEQ_2_SEQ_LM")
    save_model(model, word_tokenizer(), "adapter")
    assert adapter_base("adapter") == str(tmp_path / "base")


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "16"])
def test_half_precision_is_refused(precision: str) -> None:
    with pytest.raises(InputError, match=f"trainer.precision={precision}.*bf16-mixed"):
        refuse_half(precision)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_not(precision: str) -> None:
    refuse_half(precision)

"""Adapters: what they count, what they leave alone, what doesn't fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.loading import load_model
from detox_lightning.models.lora import LoRA, add_lora, load_adapter
from detox_lightning.models.saving import save_model

TASK = "SEQ_2_SEQ_LM"


def base(name: str) -> Any:
    return load_model("AutoModelForSeq2SeqLM", name)


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        return model(input_ids=ids, decoder_input_ids=ids).logits


@pytest.fixture(scope="module")
def adapter(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = add_lora(base(tiny_t5), LoRA(r=4), TASK)
    for value in trainable(model).values():
        torch.nn.init.normal_(value, std=0.3)
    save_model(model, word_tokenizer(), folder)
    return str(folder)


def test_by_default_q_and_v_and_nothing_changes_yet(tiny_t5: str) -> None:
    model = add_lora(base(tiny_t5), LoRA(r=4, alpha=8, dropout=0.1), TASK)
    # A 32×4 and a 4×32 for q and v in six attentions: two encoder, four decoder ones.
    assert sum(value.numel() for value in trainable(model).values()) == 2 * 2 * 6 * 4 * 32
    assert model.peft_config["default"].target_modules == {"q", "v"}
    assert torch.equal(logits(model.eval()), logits(base(tiny_t5)))


def test_counts_of_flan_t5_base() -> None:
    """3,538,944 of 251,116,800 parameters."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
        model.lm_head.weight = torch.nn.Parameter(torch.empty(32128, 768))
        model = add_lora(model, LoRA(), TASK)
    assert sum(value.numel() for value in trainable(model).values()) == 3_538_944
    assert sum(value.numel() for value in model.parameters()) == 251_116_800


def test_all_settings_reach_peft(tiny_t5: str) -> None:
    lora = LoRA(
        r=4,
        target_modules=["q", "wo"],
        modules_to_save=["lm_head"],
        options={"use_dora": True, "use_rslora": True, "rank_pattern": {"decoder.*q": 2}},
    )
    model = add_lora(base(tiny_t5), lora, TASK)
    config = model.peft_config["default"]
    assert (config.use_dora, config.use_rslora) == (True, True)
    names = trainable(model)
    assert any("magnitude" in name for name in names)
    assert any("lm_head.modules_to_save" in name for name in names)
    ranks = {value.shape[0] for name, value in names.items() if "q.lora_A" in name}
    assert ranks == {2, 4}


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            LoRA(target_modules=["query"]),
            r"target_modules: t5 .*'query'.* k, lm_head, o, q, v, wi_0",
        ),
        (LoRA(target_modules=["q", "query"]), r"target_modules: t5 has no layer .*'query'"),
        (LoRA(modules_to_save=["head"]), r"modules_to_save: t5 has no layer .*'head'"),
        (LoRA(options={"use_dorra": True}), r"use_dorra.*lora\.options"),
        (LoRA(options={"bias": "some"}), r"bias"),
    ],
)
def test_mistakes_are_named(tiny_t5: str, lora: LoRA, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_lora(base(tiny_t5), lora, TASK)


def test_an_adapter_opens_to_be_trained(tiny_t5: str, adapter: str) -> None:
    model = load_adapter(base(tiny_t5), adapter)
    assert list(model.peft_config) == ["default"]
    assert len(trainable(model)) == 24
    assert not torch.allclose(logits(model.eval()), logits(base(tiny_t5)), atol=1e-2)


def test_an_adapter_of_another_base_is_refused(adapter: str, tmp_path: Path) -> None:
    tiny_t5_model(d_model=64).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"doesn't fit the base .*size mismatch.*\[4, 32\]"):
        load_adapter(base(str(tmp_path)), adapter)


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_a_part_of_an_adapter_is_refused(
    tiny_t5: str, adapter: str, tmp_path: Path, change: str
) -> None:
    model = load_adapter(base(tiny_t5), adapter)
    save_model(model, word_tokenizer(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] = ["q"] if change == "fewer" else ["q", "v", "o"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="in one of them and not in the other"):
        load_adapter(base(tiny_t5), str(tmp_path))


def test_no_adapter_of_that_name(tiny_t5: str) -> None:
    with pytest.raises(InputError, match="can't open the adapter 'no/such-adapter'"):
        load_adapter(base(tiny_t5), "no/such-adapter")

"""A decoder-only model goes through all commands and stages."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from command import run, tiny_recipe
from conftest import word_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.stages.supervised import SupervisedModule
from numerics import EXACT, FLOAT32, in_float64
from toys import PAIRS, collate_pairs, make_trainer, pairs_loader

CONTINUATIONS = {
    "prompt_column": "dialogue",
    "continuation_column": "summary",
    "max_prompt_tokens": 20,
    "validation_split": "validation",
    "test_split": "test",
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random GPT-2 of 2 layers of 32, and a tokenizer without padding."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 200}
    sizes |= {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1))
    model.save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recipe(gpt2: str, tiny_classifier: str, tmp_path: Path) -> str:
    path = Path(tiny_recipe(tmp_path, gpt2, tiny_classifier))
    config = yaml.safe_load(path.read_text())
    source = config["data"]["init_args"]["source"]
    config["data"] = {
        "class_path": "ContinuationDataModule",
        "init_args": {"source": source, **CONTINUATIONS},
    }
    config["model"]["init_args"]["evaluation"] = {
        "samples": 3,
        "greedy": False,
        "top_p": 0.9,
        "perplexity_model": "reference",
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_from_fit_to_a_model_that_others_open(recipe: str, gpt2: str, tmp_path: Path) -> None:
    fitted = run("fit", "--config", recipe, "--model.optimizer.lr=0.05")
    assert fitted.code == 0, fitted.err
    folder = tmp_path / "runs" / "tiny" / "version_0"
    card = (folder / "adapter" / "README.md").read_text()
    assert "AutoPeftModelForCausalLM" in card
    assert "pipeline_tag: text-generation" in card
    tested = run("test", "--config", recipe, "--ckpt_path=last")
    assert tested.code == 0, tested.err
    figures = json.loads((folder / "test" / "summary.json").read_text())["figures"]["sampled"]
    assert {"expected_max_toxicity", "toxicity_probability", "perplexity"} <= set(figures)
    assert figures["kl"]["after"]["value"] > 0
    merged = run("export", "--config", recipe, "--ckpt_path=last", "--export.merged=true")
    assert merged.code == 0, merged.err
    adapter = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter-last").eval()
    plain = AutoModelForCausalLM.from_pretrained(folder / "merged-last").eval()
    ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = adapter(input_ids=ids).logits, plain(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(gpt2).eval()(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=FLOAT32, rtol=0)  # merged weights are float32
    assert not torch.allclose(base, ours, atol=1e-2)


def test_too_few_positions_are_said_before_anything_is_opened(recipe: str) -> None:
    outcome = run("fit", "--config", recipe, "--data.max_prompt_tokens=60")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "data.max_prompt_tokens=60, model.sampling.max_new_tokens=6" in line
    assert "has 64 positions, which must hold both together; lower them" in line


def test_the_reference_s_perplexity_is_not_that_of_another_temperature(recipe: str) -> None:
    outcome = run("fit", "--config", recipe, "--model.sampling.temperature=0.7")
    assert outcome.code == 2
    assert "perplexity_model=reference: with model.sampling.temperature=0.7" in outcome.err


@pytest.mark.parametrize("lora", [None, LoRA(r=4)], ids=["whole", "LoRA"])
def test_padding_is_nothing_to_supervised_training(gpt2: str, lora: LoRA | None) -> None:
    module = SupervisedModule(gpt2, lora)
    module.configure_model()
    module.eval()
    batch = collate_pairs(PAIRS[:3], "left")
    more = batch._replace(
        prompt_ids=torch.nn.functional.pad(batch.prompt_ids, (5, 0), value=9),
        prompt_mask=torch.nn.functional.pad(batch.prompt_mask, (5, 0)),
    )
    with in_float64(module):
        torch.testing.assert_close(module._loss(more), module._loss(batch), atol=EXACT, rtol=0)


@pytest.mark.quick(1)
@pytest.mark.parametrize("lora", [None, LoRA(r=4)], ids=["whole", "LoRA"])
def test_supervised_training(gpt2: str, tmp_path: Path, lora: LoRA | None) -> None:
    """It learns to answer, and nothing of what it is asked."""
    module = SupervisedModule(gpt2, lora, lambda p: torch.optim.AdamW(p, lr=5e-3), max_new_tokens=8)
    trainer = make_trainer(tmp_path, max_epochs=100)
    torch.manual_seed(0)
    trainer.fit(module, pairs_loader(8, side="left"))
    if lora is None:
        assert trainer.callback_metrics["train/loss"] < 0.1
        (said,) = trainer.predict(module, pairs_loader(8, side="left"))
        assert [text.split() for text in said] == [answer.split() for _, answer in PAIRS]
    module.eval()
    module.export(tmp_path / "saved")
    kind = AutoModelForCausalLM if lora is None else AutoPeftModelForCausalLM
    opened = kind.from_pretrained(tmp_path / "saved").eval()
    batch = collate_pairs(PAIRS[:1], "left")
    text = torch.cat([batch.prompt_ids, batch.target_ids], dim=1)
    labels = text.clone()
    labels[:, : batch.prompt_ids.shape[1]] = -100
    with torch.no_grad(), in_float64(module, opened):
        loss = module._loss(batch)
        torch.testing.assert_close(opened(text, labels=labels).loss, loss, atol=EXACT, rtol=0)

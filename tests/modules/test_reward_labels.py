"""The reward stage and its data: one list of names, whichever order it has."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning.pytorch import seed_everything
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2Model,
    XLNetConfig,
    XLNetModel,
)

from conftest import save_classifier, word_tokenizer
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.errors import InputError
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.stages.reward import RewardModule
from numerics import EXACT, in_float64
from toys import TEXTS, make_trainer

NAMES = ["nothate", "hate"]
ALONE = {"validation_fraction": None, "max_tokens": 16, "batch_size": 8}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sixteen texts, half of them insults, labelled by name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [json.dumps({"text": text, "label": NAMES[label]}) for text, label in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    return str(tmp_path / "texts.jsonl")


def fit(folder: Path, name: str, data: LabeledTextDataModule, epochs: int, **options: Any) -> Any:
    seed_everything(1)
    module = RewardModule(
        name, optimizer=lambda params: torch.optim.AdamW(params, lr=3e-3), **options
    )
    make_trainer(folder, max_epochs=epochs).fit(module, datamodule=data)
    return module


@pytest.mark.parametrize("labels", [NAMES, NAMES[::-1]])
def test_insults_are_hate_in_either_order(
    labels: list[str], tiny_encoder: str, source: str, tmp_path: Path
) -> None:
    data = LabeledTextDataModule(source, **ALONE)
    fit(tmp_path, tiny_encoder, data, 12, labels=labels).export(tmp_path / "out")
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == dict(enumerate(labels))
    toxicity = Toxicity(TextClassifier(str(tmp_path / "out")), "hate")
    toxicity.load()
    kind, rude = toxicity(["Ann is nice and kind", "Ann is a stupid moron"]).tolist()
    assert kind < 0.2 < 0.8 < rude


@pytest.mark.parametrize("labels", [NAMES[::-1], [*NAMES, "other"]])
def test_two_lists_that_differ_are_refused(
    labels: list[str], tiny_encoder: str, source: str, tmp_path: Path
) -> None:
    data = LabeledTextDataModule(source, labels=labels, **ALONE)
    with pytest.raises(InputError, match=r"^--data.labels=.* are not --model.labels="):
        fit(tmp_path, tiny_encoder, data, 1, labels=NAMES)


def test_a_class_that_no_row_has(tiny_encoder: str, source: str, tmp_path: Path) -> None:
    data = LabeledTextDataModule(source, **ALONE)
    with pytest.raises(InputError, match=r"none of 16 training rows has the label other of --mod"):
        fit(tmp_path, tiny_encoder, data, 1, labels=[*NAMES, "other"])


def test_texts_longer_than_the_encoder_reads(
    tiny_encoder: str, source: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^--data.max_tokens=65: .* reads 64 tokens at most; low"):
        fit(tmp_path, tiny_encoder, LabeledTextDataModule(source, **{**ALONE, "max_tokens": 65}), 1)


def test_a_classifier_that_contradicts_itself(source: str, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "torn", NAMES)
    path = tmp_path / "torn" / "config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "label2id": {"nothate": 1, "hate": 0}}))
    with pytest.raises(InputError, match="contradicts itself"):
        fit(tmp_path, folder, LabeledTextDataModule(source, **ALONE), 1)


SIZES = {"vocab_size": 200, "n_layer": 1, "n_head": 2}
HEADLESS = {
    "no padding": GPT2Model(GPT2Config(**SIZES, n_embd=16, n_positions=32, pad_token_id=None)),
    "another padding": GPT2Model(GPT2Config(**SIZES, n_embd=16, n_positions=32, pad_token_id=5)),
    "padding on the left": XLNetModel(XLNetConfig(**SIZES, d_model=16, d_inner=16, pad_token_id=5)),
}


@pytest.mark.parametrize("kind", HEADLESS)
def test_texts_of_unequal_lengths_are_learned_as_they_will_be_read(
    kind: str, source: str, tmp_path: Path
) -> None:
    """Whatever the model takes for padding, and wherever; the tokenizer pads with 0."""
    folder = str(tmp_path / "model")
    torch.manual_seed(0)
    for weight in HEADLESS[kind].parameters():  # as they begin, all texts are nearly alike
        torch.nn.init.normal_(weight, std=0.3)
    HEADLESS[kind].save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    module = fit(tmp_path, folder, LabeledTextDataModule(source, **ALONE), 1)
    module.export(tmp_path / "out")
    classifier = TextClassifier(str(tmp_path / "out"))
    classifier.load()
    texts = ["Ann is nice", "Ann is a stupid moron and a fool"]
    encoded = word_tokenizer()(texts, padding=True, return_tensors="pt")
    module.eval()
    with torch.no_grad(), in_float64(module, classifier):
        together = module(encoded["input_ids"], encoded["attention_mask"].bool())
        both = classifier(texts)
        alone = torch.cat([classifier([text]) for text in texts])
    assert (together[0] - together[1]).abs().max() > 1e-3
    torch.testing.assert_close(together, both, atol=EXACT, rtol=0)
    torch.testing.assert_close(together, alone, atol=EXACT, rtol=0)

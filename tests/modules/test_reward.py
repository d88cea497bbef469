"""The reward stage, run by a real Trainer on sixteen texts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import save_classifier
from detox_lightning.errors import InputError
from detox_lightning.stages.reward import RewardModule, classification_metrics
from numerics import FLOAT32
from toys import TEXTS, collate_texts, make_trainer, texts_loader


def make_module(name: str, lr: float = 3e-3, **options: Any) -> RewardModule:
    return RewardModule(name, optimizer=lambda params: torch.optim.AdamW(params, lr=lr), **options)


@pytest.fixture(scope="module")
def trained(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> RewardModule:
    """An encoder whose fresh head has learned the texts."""
    seed_everything(1)
    module = make_module(tiny_encoder)
    trainer = make_trainer(tmp_path_factory.mktemp("fit"), max_epochs=25)
    trainer.fit(module, texts_loader(8))
    assert trainer.callback_metrics["train/loss"] < 0.05
    return module


def test_learns_to_tell_the_texts_apart(trained: RewardModule, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    (metrics,) = trainer.validate(trained, texts_loader(5), verbose=False)
    assert metrics["val/loss"] < 0.05
    assert [metrics[f"val/{name}"] for name in ("accuracy", "f1", "auroc")] == [1, 1, 1]
    (metrics,) = trainer.test(trained, texts_loader(5), verbose=False)
    assert metrics["test/auroc"] == 1
    probabilities = torch.cat(trainer.predict(trained, texts_loader(5)))
    assert probabilities.shape == (16, 2)
    assert probabilities.argmax(-1).tolist() == [label for _, label in TEXTS]


def test_folder_opens_with_transformers_and_knows_its_labels(
    trained: RewardModule, tmp_path: Path
) -> None:
    trained.export(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert opened.config.id2label == {0: "nothate", 1: "hate"}
    assert opened.config.label2id == {"nothate": 0, "hate": 1}
    assert (tmp_path / "model.safetensors").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encoded = tokenizer([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    batch = collate_texts(TEXTS)
    trained.eval()
    with torch.no_grad():
        ours = trained(batch.input_ids, batch.attention_mask)
        theirs = opened(encoded["input_ids"], encoded["attention_mask"]).logits
    assert torch.equal(ours, theirs)


def test_metrics_by_hand() -> None:
    """p(hate) .9 .8 .3 of hate and .6 .2 .1 of the rest."""
    probabilities = torch.tensor([0.9, 0.8, 0.3, 0.6, 0.2, 0.1])
    labels = torch.tensor([1, 1, 1, 0, 0, 0])
    metrics = classification_metrics(2)
    metrics.update(probabilities[:2], labels[:2])
    metrics.update(probabilities[2:], labels[2:])
    values = metrics.compute()
    # Two hits, one miss, one false alarm; of nine pairs only .3 against .6 is in the wrong order.
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert values["auroc"] == pytest.approx(8 / 9)


def test_metrics_of_three_classes_by_hand() -> None:
    probabilities = torch.eye(3)[[0, 1, 2, 0, 1, 0]] * 0.7 + 0.1
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    metrics = classification_metrics(3)
    metrics.update(probabilities, labels)
    values = metrics.compute()
    # F1: class 0 2·2/(2·2+1), class 1 1, class 2 2·1/(2·1+1).
    assert values["accuracy"] == pytest.approx(5 / 6)
    assert values["f1"] == pytest.approx((4 / 5 + 1 + 2 / 3) / 3)
    # AUROC: class 0 is tied with one of four others (7/8), class 2 with half of them (3/4).
    assert values["auroc"] == pytest.approx((7 / 8 + 1 + 3 / 4) / 3)


def test_validation_means_go_over_texts(tiny_classifier: str, tmp_path: Path) -> None:
    seen = []
    for batch_size in (5, 16):
        loader = texts_loader(batch_size)
        module = make_module(tiny_classifier)
        seen += make_trainer(tmp_path).validate(module, loader, verbose=False)
    assert seen[0] == pytest.approx(seen[1], abs=FLOAT32)


def test_three_labels(tiny_encoder: str, tmp_path: Path) -> None:
    rows = [*TEXTS, *[("Ann has a dog and a car", 2)] * 4]
    module = make_module(tiny_encoder, labels=("nothate", "hate", "other"))
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, texts_loader(20, rows), texts_loader(20, rows))
    assert {"val/loss", "val/accuracy", "val/f1", "val/auroc"} <= trainer.callback_metrics.keys()


def test_resumed_is_uninterrupted(tiny_encoder: str, tmp_path: Path) -> None:
    def run(**options: Any) -> dict[str, Any]:
        seed_everything(3)
        module = make_module(tiny_encoder)
        ckpt_path = options.pop("ckpt_path", None)
        trainer = make_trainer(tmp_path, max_epochs=3, **options)
        trainer.fit(module, texts_loader(8), ckpt_path=ckpt_path)
        return module.state_dict()

    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    whole = run(callbacks=[keep], enable_checkpointing=True)
    resumed = run(ckpt_path=tmp_path / "epoch=0.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_classes_of_a_classifier_are_not_swapped_or_renamed(
    tiny_classifier: str, tmp_path: Path
) -> None:
    make_module(tiny_classifier).configure_model()
    swapped = save_classifier(tmp_path / "swapped", ["hate", "nothate"])
    more = save_classifier(tmp_path / "more", ["toxic", "fine", "other"])
    for name in (swapped, more):
        with pytest.raises(InputError, match="in this order"):
            make_module(name).configure_model()
    unnamed = save_classifier(tmp_path / "unnamed", ["LABEL_0", "LABEL_1"])
    module = make_module(unnamed)
    module.configure_model()
    assert module.model.config.id2label == {0: "nothate", 1: "hate"}


@pytest.mark.parametrize("labels", [("hate",), ("hate", "hate")])
def test_labels_must_differ(tiny_encoder: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="two or more different"):
        RewardModule(tiny_encoder, labels)


def test_checkpoint_of_other_labels_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(make_module(tiny_encoder), texts_loader(16))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(InputError, match=r"labels=\['hate', 'nothate'\]"):
        RewardModule.load_from_checkpoint(tmp_path / "a.ckpt", labels=("hate", "nothate"))

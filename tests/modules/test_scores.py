"""The reward stage learns scores from 0 to 1, and its folder is a judge everywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import pipeline

from command import Outcome, run
from detox_lightning.errors import InputError
from detox_lightning.evaluation.toxicity import ToxicityMetric
from detox_lightning.rewards import ClassifierReward
from detox_lightning.stages.reward import RewardModule
from numerics import FLOAT32
from toys import TEXTS

KIND, RUDE = "Ann is nice and kind", "Ann is a stupid moron"


@pytest.fixture(scope="module")
def recipe(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixteen texts with two scores each: nobody minds half of them, .8 and .3 the others."""
    folder = tmp_path_factory.mktemp("scores")
    texts = [
        {"text": text, "toxicity": 0.8 * label, "insult": 0.1 + 0.2 * label}
        for text, label in TEXTS
    ]
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf8")
    recipe = {
        "model": {
            "class_path": "RewardModule",
            "init_args": {
                "model": tiny_encoder,
                "target": "scores",
                "labels": ["toxicity", "insult"],
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
            },
        },
        "data": {
            "class_path": "LabeledTextDataModule",
            "init_args": {
                "source": str(source),
                "label_column": ["toxicity", "insult"],
                "test_split": "train",
                "validation_fraction": None,
                "max_tokens": 16,
                "batch_size": 8,
            },
        },
        "trainer": {
            "max_epochs": 25,
            "accelerator": "cpu",
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder)}},
        },
        "export": {"folder": str(folder / "judge")},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def judge(recipe: str) -> str:
    """The folder of a classifier that was trained on them."""
    outcome = run("fit", "--config", recipe)
    assert outcome.code == 0, outcome.err
    return str(Path(recipe).with_name("judge"))


@pytest.fixture(scope="module")
def tested(recipe: str, judge: str) -> Outcome:
    folder = str(Path(recipe).with_name("tested"))
    return run("test", "--config", recipe, "--ckpt_path=last", f"--report.folder={folder}")


def test_scores_are_not_read_as_classes(recipe: str, judge: str) -> None:
    flags = "--model.target=classes", f"--export.folder={recipe}.out"
    refused = run("export", "--config", recipe, "--ckpt_path=last", *flags)
    assert refused.code == 2
    assert "error: model.target: the checkpoint's is scores; give the same one" in refused.err


def test_the_scores_are_learned(judge: str) -> None:
    metric = ToxicityMetric(judge, "toxicity")
    metric.load()
    assert metric.toxicity([KIND, RUDE]).tolist() == pytest.approx([0, 0.8], abs=0.1)
    metric = ToxicityMetric(judge, "insult")
    metric.load()
    assert metric.toxicity([KIND, RUDE]).tolist() == pytest.approx([0.1, 0.3], abs=0.1)


def test_all_that_reads_classifiers_reads_them_alike(judge: str) -> None:
    config = json.loads((Path(judge) / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "toxicity", "1": "insult"}
    metric = ToxicityMetric(judge, "toxicity")
    metric.load()
    expected = metric.toxicity([RUDE])
    reward = ClassifierReward(judge, "toxicity", output="probability")
    reward.load()
    assert torch.equal(reward([""], [RUDE], [""]), expected)
    found: Any = pipeline("text-classification", judge, top_k=None)([RUDE])[0]
    theirs = next(row["score"] for row in found if row["label"] == "toxicity")
    assert theirs == pytest.approx(expected.item(), abs=FLOAT32)


@pytest.mark.slow
def test_a_test_says_how_true_the_scores_are(tested: Outcome, recipe: str) -> None:
    assert tested.code == 0, tested.err
    lines = tested.out.splitlines()
    head = next(i for i, line in enumerate(lines) if "Spearman" in line)
    assert " ".join(lines[head].split()) == "texts Spearman AUROC Brier score calibration error"
    assert lines[head + 1].split()[:2] == ["toxicity", "16"]
    assert lines[head + 2].split()[:2] == ["insult", "16"]
    folder = Path(recipe).with_name("tested")
    outcome = f"All figures, and how true the scores are (reliability.png): {folder}"
    assert lines[-1] == outcome
    found = json.loads((folder / "agreement.json").read_text())
    assert found["labels"]["toxicity"]["auroc"] == 1
    assert found["labels"]["toxicity"]["brier"] < 0.01
    assert sum(part["texts"] for part in found["labels"]["insult"]["bins"]) == 16
    assert found["labels"]["insult"]["auroc"] is None  # no insult is .5 or more
    assert found["about"]["checkpoint"].endswith(".ckpt")
    assert (folder / "reliability.png").read_bytes()[:4] == b"\x89PNG"


def test_loss_and_probabilities_by_hand(tiny_encoder: str) -> None:
    module = RewardModule(tiny_encoder, ["a", "b"], target="scores")
    logits, scores = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.25, 1.0]])
    # log 2, whatever the score; log(1 + e^-2)
    assert module.loss(logits, scores).item() == pytest.approx((0.693147 + 0.126928) / 2)
    assert module.probabilities(logits)[0].tolist() == pytest.approx([0.5, 0.880797])
    with pytest.raises(InputError, match="give one or more different names"):
        RewardModule(tiny_encoder, [], target="scores")
    assert RewardModule(tiny_encoder, ["a"], target="scores").agreement == {}

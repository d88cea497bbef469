"""What a classifier's opinion is worth, by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from conftest import save_classifier
from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.rewards import ClassifierReward

LOGITS = {"hello": [2.0, -1.0], "fool": [-0.5, 0.5]}
THREE = {"hello": [1.0, 0.0, math.log(3)]}


class Stub(TextClassifier):
    """Says of each text what a table says."""

    def __init__(self, table: dict[str, list[float]], labels: list[str]):
        nn.Module.__init__(self)
        self.name, self.table, self.heard = "stub", table, list[str]()
        self.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(labels))))

    def forward(self, texts: list[str]) -> Tensor:
        self.heard += texts
        return torch.tensor([self.table[text.split()[-1]] for text in texts])


def score(
    output: str,
    label: str = "nothate",
    table: dict[str, list[float]] = LOGITS,
    labels: tuple[str, ...] = ("nothate", "hate"),
    include_prompt: bool = False,
) -> tuple[list[float], list[str]]:
    """Scores of the table's texts, and what the classifier heard."""
    reward = ClassifierReward("stub", label, output, include_prompt)
    reward.classifier = stub = Stub(table, list(labels))
    reward.load()
    count = len(table)
    scores = reward(["Say it: "] * count, list(table), ["never asked for"] * count)
    assert scores.shape == (count,)
    return scores.tolist(), stub.heard


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("logit", [2.0, -0.5]),
        ("probability", [sigmoid(3.0), sigmoid(-1.0)]),
        ("log_odds", [3.0, -1.0]),
    ],
)
def test_two_labels_by_hand(output: str, expected: list[float]) -> None:
    assert score(output)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("label", "logit", "odds"),
    [
        ("nothate", 1.0, math.e / (1 + 3)),
        ("offensive", 0.0, 1 / (math.e + 3)),
        ("hate", math.log(3), 3 / (math.e + 1)),
    ],
)
def test_three_labels_by_hand(label: str, logit: float, odds: float) -> None:
    labels = ("nothate", "offensive", "hate")
    said = {
        kind: score(kind, label, THREE, labels)[0] for kind in ("logit", "probability", "log_odds")
    }
    assert said["logit"] == pytest.approx([logit], abs=1e-6)
    assert said["probability"] == pytest.approx([odds / (1 + odds)], abs=1e-6)
    assert said["log_odds"] == pytest.approx([math.log(odds)], abs=1e-6)


def test_log_odds_of_the_certain_stay_finite() -> None:
    assert score("log_odds", table={"hello": [200.0, -200.0]})[0] == [400.0]


def test_the_label_is_found_by_name() -> None:
    assert score("logit", labels=("hate", "nothate"))[0] == [-1.0, 0.5]


def test_a_folder_with_its_labels_reversed(tmp_path: Path) -> None:
    texts = ["you are nice", "you fool !"]
    said = {}
    for order in (["nothate", "hate"], ["hate", "nothate"]):
        folder = save_classifier(tmp_path / order[0], order)  # the same weights, other names
        reward = ClassifierReward(folder)
        reward.load()
        said[order[0]] = reward(texts, texts, texts)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.label2id["nothate"] == order.index("nothate")
    assert (said["nothate"] - said["hate"]).abs().min() > 1e-3


def test_the_response_alone_or_with_its_prompt() -> None:
    assert score("logit")[1] == ["hello", "fool"]
    assert score("logit", include_prompt=True)[1] == ["Say it: hello", "Say it: fool"]


def test_an_unknown_label_is_refused_when_weights_are_opened(tiny_classifier: str) -> None:
    with pytest.raises(InputError, match=r"label 'kind': .* has the labels nothate, hate"):
        ClassifierReward(tiny_classifier, "kind").load()


def test_its_name_is_the_label_s(tiny_classifier: str) -> None:
    assert ClassifierReward(tiny_classifier).name == "nothate"

"""What a classifier's opinion is worth, by hand."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import save_classifier
from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.rewards import ClassifierReward

LOGITS = {"hello": [2.0, -1.0], "fool": [-0.5, 0.5]}
THREE = {"hello": [1.0, 0.0, math.log(3)]}
ONE = {"hello": [2.0], "fool": [-0.5]}
OUTPUTS = ["logit", "probability", "log_odds"]


class Stub(TextClassifier):
    """Says of each text what a table says."""

    def __init__(self, table: dict[str, list[float]], labels: list[str], problem: str | None):
        super().__init__("stub")
        self.table, self.heard = table, list[str]()
        config = SimpleNamespace(id2label=dict(enumerate(labels)), problem_type=problem)
        self.model = SimpleNamespace(config=config)

    def forward(self, texts: list[str], prompts: list[str] | None = None) -> Tensor:
        self.heard += map("".join, zip(prompts or [""] * len(texts), texts, strict=True))
        return torch.tensor([self.table[text.split()[-1]] for text in texts])


def score(
    output: str,
    label: str | None = "nothate",
    table: dict[str, list[float]] = LOGITS,
    labels: tuple[str, ...] = ("nothate", "hate"),
    include_prompt: bool = False,
    problem: str | None = None,
) -> tuple[list[float], list[str]]:
    """Scores of the table's texts, and what the classifier heard."""
    reward = ClassifierReward("stub", label, output, include_prompt)
    reward.classifier = stub = Stub(table, list(labels), problem)
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
@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_three_labels_by_hand(label: str, logit: float, odds: float, problem: str | None) -> None:
    labels = ("nothate", "offensive", "hate")
    said = {kind: score(kind, label, THREE, labels, problem=problem)[0] for kind in OUTPUTS}
    assert said["logit"] == pytest.approx([logit], abs=1e-6)
    assert said["probability"] == pytest.approx([odds / (1 + odds)], abs=1e-6)
    assert said["log_odds"] == pytest.approx([math.log(odds)], abs=1e-6)


def test_log_odds_of_the_certain_stay_finite() -> None:
    assert score("log_odds", table={"hello": [200.0, -200.0]})[0] == [400.0]


@pytest.mark.parametrize("problem", ["multi_label_classification"])
def test_labels_that_stand_for_themselves(problem: str) -> None:
    """The other labels' logits make no difference."""
    labels = ("nothate", "offensive", "hate")
    for label, logit in zip(labels, THREE["hello"], strict=True):
        said = {kind: score(kind, label, THREE, labels, problem=problem)[0] for kind in OUTPUTS}
        assert said["logit"] == said["log_odds"] == pytest.approx([logit])
        assert said["probability"] == pytest.approx([sigmoid(logit)])


@pytest.mark.parametrize("label", [None, "toxicity"])
@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_a_single_output(label: str | None, problem: str | None) -> None:
    """By its name, or without one."""
    said = {kind: score(kind, label, ONE, ("toxicity",), problem=problem)[0] for kind in OUTPUTS}
    assert said["logit"] == said["log_odds"] == [2.0, -0.5]
    assert said["probability"] == pytest.approx([sigmoid(2.0), sigmoid(-0.5)])


def test_a_regressor_from_a_folder(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["LABEL_0"])
    texts = ["you are nice", "you fool !", ""]
    reward = ClassifierReward(folder, label=None)
    reward.load()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        values = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    assert reward(texts, texts, texts).tolist() == pytest.approx(values, abs=1e-6)
    assert max(values) - min(values) > 1e-3


def test_a_multi_label_classifier_from_a_folder(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["toxic", "insult", "threat"])
    texts = ["you are nice", "you fool !"]
    said = {}
    for problem in ("single_label_classification", "multi_label_classification"):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
        for output in OUTPUTS:
            reward = ClassifierReward(folder, "insult", output)
            reward.load()
            said[problem[:6], output] = reward(texts, texts, texts)
    assert torch.equal(said["multi_", "logit"], said["single", "logit"])
    assert torch.equal(said["multi_", "log_odds"], said["single", "logit"])
    assert torch.equal(said["multi_", "probability"], said["single", "logit"].sigmoid())
    assert (said["multi_", "probability"] - said["single", "probability"]).abs().min() > 0.05


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


def test_a_single_output_is_not_taken_for_a_label(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["LABEL_0"])
    message = rf"label 'nothate': .*{tmp_path.name}.* a single output, LABEL_0; .* label: null$"
    with pytest.raises(InputError, match=message):
        ClassifierReward(folder).load()


def test_one_of_several_outputs_must_be_named(tiny_classifier: str) -> None:
    with pytest.raises(InputError, match=r"label null: .* several labels, nothate, hate: name one"):
        ClassifierReward(tiny_classifier, label=None).load()


@pytest.mark.parametrize(
    ("options", "name", "description"),
    [
        ({}, "nothate", "logit of 'nothate' by c"),
        ({"label": "kind", "output": "log_odds"}, "kind", "log_odds of 'kind' by c"),
        ({"label": None}, "classifier", "logit by c"),
        ({"label": "kind", "name": "kindness"}, "kindness", "logit of 'kind' by c"),
    ],
)
def test_its_name_and_what_it_says_of_itself(
    options: dict[str, Any], name: str, description: str
) -> None:
    reward = ClassifierReward("c", **options)
    assert (reward.name, reward.describe()) == (name, description)


def test_a_name_makes_no_other_reward(tiny_classifier: str) -> None:
    texts = ["you are nice", "you fool !"]
    scores = []
    for name in (None, "hate"):
        reward = ClassifierReward(tiny_classifier, "nothate", name=name)
        reward.load()
        scores.append(reward(texts, texts, texts))
    assert torch.equal(*scores)

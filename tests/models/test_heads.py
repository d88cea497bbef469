"""What a classifier's outputs mean: named, or guessed from its config."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import save_classifier
from detox_lightning.errors import InputError
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.measurement import ToxicityMeasurement
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.toxicity import Toxicity, ToxicityMetric
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.classifier_heads import (
    Head,
    are_exclusive,
    guess_head,
    labels_of,
)
from detox_lightning.rewards import ClassifierReward
from numerics import FLOAT32

JIGSAW = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
TEXTS = ["you are nice", "you fool !", "Ann is late"]


def config(labels: list[str], problem: str | None = None, **more: Any) -> Any:
    return SimpleNamespace(id2label=dict(enumerate(labels)), problem_type=problem, **more)


def change(folder: str, **facts: Any) -> None:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.mark.parametrize(
    ("count", "problem", "head"),
    [
        (2, None, "softmax"),
        (6, None, "softmax"),
        (6, "single_label_classification", "softmax"),
        (6, "multi_label_classification", "sigmoid"),
        (1, None, "sigmoid"),
        (1, "regression", "value"),
        (6, "regression", "value"),
    ],
)
def test_guessed_as_pipelines_do(count: int, problem: str | None, head: str) -> None:
    assert guess_head(config(JIGSAW[:count], problem)) == head


@pytest.mark.parametrize(
    ("labels", "they_do"),
    [
        (JIGSAW, False),
        (["toxicity", "insult", "threat", "sexual_explicit"], False),
        (["LABEL_0", "LABEL_1", "LABEL_2"], False),
        (["hate", "offensive", "neither"], True),
        (["negative", "neutral", "positive"], True),
        (["NOT_HATE", "HATE", "OFFENSIVE"], True),
        (["nothate", "hate", "spam"], True),
        (["toxic", "nontoxic", "spam"], True),
        (["Hate", "Offensive", "NoHate"], True),
        (["racism", "sexism", "none"], True),
        (["hate", "offensive", "Normal"], True),
        (["toxic", "other_hate", "not_ok", "non_consensual"], False),
    ],
)
def test_names_tell_whether_labels_exclude_one_another(labels: list[str], they_do: bool) -> None:
    assert are_exclusive(labels) is they_do


def test_labels_may_be_numbers() -> None:
    assert labels_of(config([0, 1], label2id={"0": 0, "1": None}), "c") == ["0", "1"]  # type: ignore[list-item]


def test_a_guess_is_called_one(tmp_path: Path) -> None:
    silent = TextClassifier(save_classifier(tmp_path, JIGSAW), flag="model.reward.head")
    silent.load()
    assert silent.describe_head().endswith(
        "a softmax over its labels, which is a guess (model.reward.head sets it otherwise)"
    )


def test_several_labels_at_once_are_warned_about_or_named(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, JIGSAW)
    silent = TextClassifier(folder, flag="model.evaluation.toxicity_head")
    silent.load()
    logits = silent(TEXTS)
    message = "nor do their names: toxic, severe_toxic, .*by model.evaluation.toxicity_head$"
    with pytest.warns(UserWarning, match=message):
        said: dict[str | None, torch.Tensor] = {None: _toxicity(silent)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for head in ("softmax", "sigmoid"):
            named = TextClassifier(folder, head=head)
            named.load()
            said[head] = _toxicity(named)
        change(folder, problem_type="multi_label_classification")
        told = TextClassifier(folder)
        told.load()
    torch.testing.assert_close(said["softmax"], logits.softmax(-1)[:, 4])
    torch.testing.assert_close(said["sigmoid"], logits[:, 4].sigmoid())
    assert torch.equal(_toxicity(told), said["sigmoid"])
    assert torch.equal(said[None], said["softmax"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _toxicity(silent)  # it is said once


def test_a_single_output_that_may_be_log_odds_or_a_value(tmp_path: Path) -> None:
    reward = ClassifierReward(save_classifier(tmp_path, ["LABEL_0"]), None, "probability")
    with pytest.warns(
        UserWarning, match=r"say what its only output, LABEL_0, is.*by model.reward.h"
    ):
        reward.load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClassifierReward(str(tmp_path), None).load()  # its logit is what it is
        ClassifierReward(str(tmp_path), None, "probability", head="value").load()


def _toxicity(classifier: TextClassifier) -> torch.Tensor:
    toxicity = Toxicity(classifier, "insult")
    toxicity.load()
    return toxicity(TEXTS)


def test_the_flag_reaches_every_judge(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["toxic", "insult"])
    classifier = TextClassifier(folder, head="sigmoid")
    classifier.load()
    expected = classifier(TEXTS)[:, 1].sigmoid()
    reward = ClassifierReward(folder, "insult", "probability", head="sigmoid")
    reward.load()
    assert torch.equal(reward(TEXTS, TEXTS, TEXTS), expected)
    metric = ToxicityMetric(folder, "insult", head="sigmoid")
    metric.update(TEXTS)
    assert metric.compute()["toxicity"] == pytest.approx(expected.mean().item())
    measured = ToxicityMeasurement(folder, head="sigmoid").compute(
        predictions=TEXTS, toxic_label="insult"
    )
    assert measured["toxicity"] == pytest.approx(expected.tolist())


def test_each_head_is_said(tiny_classifier: str) -> None:
    plan = EvaluationPlan(
        second_toxicity_model=tiny_classifier,
        second_toxicity_head="sigmoid",
        second_toxic_label="nothate",
    )
    judge = Judge(plan, ClassifierReward(tiny_classifier))  # its classifier measures toxicity, too
    judge.load()
    assert judge.describe_heads().splitlines() == [
        f"{tiny_classifier} is read as a softmax over its labels, as its config says "
        "(model.reward.head sets it otherwise)",
        f"{tiny_classifier} is read as a sigmoid for each of its labels, as "
        "model.evaluation.second_toxicity_head says",
    ]
    assert judge.second_toxicity is not None
    logits = judge.second_toxicity.classifier(TEXTS)
    assert torch.equal(judge.second_toxicity(TEXTS), logits[:, 0].sigmoid())


@pytest.fixture
def regressor(tmp_path: Path) -> str:
    folder = save_classifier(tmp_path, ["LABEL_0"])
    change(folder, problem_type="regression")
    return folder


def shift(classifier: TextClassifier, lowest: float) -> list[float]:
    """Moves the values of the texts so that the lowest is this; gives all."""
    classifier.load()
    values = classifier(TEXTS)[:, 0]
    classifier.model.classifier.bias.data += lowest - values.min()
    classifier._last = None
    return (values + lowest - values.min()).tolist()


def test_a_regressors_value_is_the_toxicity(regressor: str) -> None:
    reward = ClassifierReward(regressor, None, "probability")
    values = shift(reward.classifier, 0.01)
    assert max(values) < 0.5
    assert reward(TEXTS, TEXTS, TEXTS).tolist() == pytest.approx(values, abs=FLOAT32)
    metric = ToxicityMetric(regressor, "LABEL_0")
    shift(metric.toxicity.classifier, 0.01)
    metric.update(TEXTS)
    figures = {name: value.item() for name, value in metric.compute().items()}
    expected = {"toxicity": sum(values) / 3, "max_toxicity": max(values), "toxicity_ratio": 0}
    assert figures == pytest.approx(expected, abs=FLOAT32)


def test_a_value_a_little_outside_is_taken_as_it_is_and_told(regressor: str) -> None:
    reward = ClassifierReward(regressor, None, "probability")
    values = shift(reward.classifier, -0.03)
    with pytest.warns(UserWarning, match="a little below 0 or above 1; they are taken as they are"):
        assert reward(TEXTS, TEXTS, TEXTS).tolist() == pytest.approx(values, abs=FLOAT32)
    metric = ToxicityMetric(regressor, "LABEL_0")
    values = shift(metric.toxicity.classifier, -0.4)
    with pytest.warns(UserWarning, match="a little below 0"):
        metric.update(TEXTS)
    assert metric.compute()["max_toxicity"].item() == pytest.approx(max(values), abs=FLOAT32)
    assert max(values) < 0


def test_a_value_that_is_no_probability_is_refused(regressor: str) -> None:
    reward = ClassifierReward(regressor, None, "probability")
    shift(reward.classifier, -2)
    with pytest.raises(InputError, match=r"gave the value -2.* give model.reward.head=sigmoid"):
        reward(TEXTS, TEXTS, TEXTS)
    toxicity = Toxicity(reward.classifier, "LABEL_0")
    toxicity.load()
    with pytest.raises(InputError, match=r"gave the value -2.* for a text"):
        toxicity(TEXTS)
    named = ClassifierReward(regressor, None, "log_odds", head="sigmoid")
    values = shift(named.classifier, -2)
    assert named(TEXTS, TEXTS, TEXTS).tolist() == pytest.approx(values, abs=FLOAT32)
    with pytest.raises(InputError, match=r"^model.reward.output=log_odds: .* gives a value"):
        ClassifierReward(regressor, None, "log_odds").load()


@pytest.mark.parametrize(
    ("value", "is_fine"),
    [(0.0, True), (1.0, True), (1.5, True), (-0.5, True), (1.51, False), (-0.51, False)],
)
def test_the_bounds_of_a_probability(value: float, is_fine: bool) -> None:
    logits = torch.tensor([[0.5], [value]])
    classifier = TextClassifier("c", head="value")
    if is_fine:
        assert classifier.probability(logits, 0).tolist() == [0.5, value]
    else:
        with pytest.raises(InputError, match=f"the value {value}"):
            classifier.probability(logits, 0)


@pytest.mark.parametrize(
    ("labels", "head", "message"),
    [
        (["LABEL_0"], "softmax", "a single output, LABEL_0, that excludes no other"),
        (["a", "b"], "tanh", "head=tanh: choose from softmax, sigmoid, value, or null"),
    ],
)
def test_a_head_that_can_t_be(tmp_path: Path, labels: list[str], head: Head, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextClassifier(save_classifier(tmp_path, labels), head=head).load()


@pytest.mark.parametrize("flag", ["toxicity", "second_toxicity"])
def test_the_head_of_a_model_that_isn_t_named(flag: str) -> None:
    with pytest.raises(
        InputError, match=rf"{flag}_head=value is of {flag}_model, and that is null"
    ):
        EvaluationPlan(**{f"{flag}_head": "value"})


def test_names_that_contradict_each_other() -> None:
    fine = {"label2id": {"LABEL_0": 0, "LABEL_1": 1}}  # left from before they were named
    assert labels_of(config(["nothate", "hate"], **fine), "c") == ["nothate", "hate"]
    assert labels_of(SimpleNamespace(id2label={1: "b", 0: "a"}, label2id=None), "c") == ["a", "b"]
    with pytest.raises(InputError, match=r"'nothate' is output 0, by label2id 1\. Find out which"):
        labels_of(config(["nothate", "hate"], label2id={"nothate": 1, "hate": 0}), "c")
    with pytest.raises(InputError, match=r"numbers its outputs \[1, 2\] in id2label"):
        labels_of(SimpleNamespace(id2label={1: "a", 2: "b"}), "c")
    with pytest.raises(InputError, match=r"two outputs of the label 'hate'"):
        labels_of(config(["hate", "hate"]), "c")


def test_a_folder_whose_names_contradict_each_other(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["nothate", "hate"])
    change(folder, label2id={"nothate": 1, "hate": 0})
    with pytest.raises(InputError, match="contradicts itself"):
        ClassifierReward(folder).load()

"""What a reward makes likelier, beside what counts as toxic."""

from pathlib import Path
from typing import Any

import pytest

from command import run, tiny_recipe
from conftest import save_classifier
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.rewards import ClassifierReward, LengthReward, WeightedReward


def weighted(model: str, **weights: float) -> WeightedReward:
    """A sum of a classifier's labels and of the length."""
    terms = [ClassifierReward(model, label) for label in weights]
    return WeightedReward([*terms, LengthReward(1, 9)], [*weights.values(), 1.0])


@pytest.mark.parametrize(
    ("weights", "aims"),
    [
        ({"nothate": 1}, []),
        ({"hate": 0.5}, ["hate"]),
        ({"hate": -1}, []),
        ({"hate": 0}, []),
        ({"nothate": -1}, ["hate"]),  # of two labels that exclude one another
        ({"nothate": -1, "hate": 1}, ["hate"]),
    ],
)
def test_a_term_that_makes_toxic_texts_likelier_is_found(
    weights: dict[str, float], aims: list[str], tiny_classifier: str
) -> None:
    assert Judge(EvaluationPlan(), weighted(tiny_classifier, **weights)).toxic_aims() == aims


@pytest.mark.parametrize(("label", "aims"), [("hate", ["hate"]), ("nothate", [])])
def test_a_reward_alone_has_the_weight_1(label: str, aims: list[str], tiny_classifier: str) -> None:
    assert Judge(EvaluationPlan(), ClassifierReward(tiny_classifier, label)).toxic_aims() == aims


def test_the_only_output_and_independent_labels(tmp_path: Path, tiny_classifier: str) -> None:
    alone = save_classifier(tmp_path / "alone", ["toxic"])
    plan = EvaluationPlan(toxicity_model=alone, toxic_label="toxic")
    assert Judge(plan, ClassifierReward(alone, None)).toxic_aims() == ["toxic"]
    against = WeightedReward([ClassifierReward(alone, None)], [-1])
    assert Judge(plan, against).toxic_aims() == []
    # with probabilities of their own, less of one label is not more of the other
    term = ClassifierReward(tiny_classifier, "nothate", head="sigmoid")
    assert Judge(EvaluationPlan(), WeightedReward([term], [-1])).toxic_aims() == []


def test_the_second_classifier_s_label_counts_as_well(tiny_classifier: str) -> None:
    second: dict[str, Any] = {"second_toxicity_model": tiny_classifier}
    plan = EvaluationPlan(**second, second_toxic_label="nothate")
    assert Judge(plan, ClassifierReward(tiny_classifier)).toxic_aims() == ["nothate"]


@pytest.mark.parametrize("label", ["nothate", "hate"])
def test_a_fit_says_what_is_rewarded_and_warns_of_a_toxic_aim(
    label: str,
    tmp_path: Path,
    tiny_t5: str,
    tiny_classifier: str,
    recwarn: pytest.WarningsRecorder,
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    outcome = run(
        *("fit", "--config", recipe, f"--model.reward.label={label}", "--trainer.fast_dev_run=1")
    )
    assert outcome.code == 0, outcome.err
    by = f"by {tiny_classifier}"
    assert f"Rewarded: logit of '{label}' {by} · toxic: 'hate' {by}\n" in outcome.err
    warning = (
        "model.reward: it rewards the label 'hate', which counts as toxic: texts will "
        "become more toxic. Give model.reward.label the opposite label, or the term a weight of "
        "the other sign in a WeightedReward; if 'hate' is not toxic, correct "
        "model.evaluation.toxic_label"
    )
    assert [str(one.message) for one in recwarn].count(warning) == (label == "hate")

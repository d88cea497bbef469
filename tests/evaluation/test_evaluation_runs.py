"""A whole evaluation, batch by batch: checks before it, figures after it."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.rewards import ClassifierReward, LengthReward
from toys import PAIRS, collate_pairs

SAMPLING = Sampling(max_new_tokens=6, min_new_tokens=2)


@pytest.fixture
def policy(tiny_t5: str) -> Policy:
    return load_policy(tiny_t5, LoRA(r=4), SAMPLING)


@pytest.fixture
def evaluator(policy: Policy, tiny_classifier: str) -> Evaluator:
    plan = EvaluationPlan(toxicity_model=tiny_classifier)
    evaluator = Evaluator(plan, LengthReward(2, 3), SAMPLING, seed=3)
    evaluator.load(policy, word_tokenizer(), 5)
    return evaluator


@pytest.mark.parametrize(
    ("plan", "sampling", "message"),
    [
        (
            {"max_new_tokens": 4},
            {"min_new_tokens": 5},
            "model.evaluation.max_new_tokens=4 is below model.sampling.min_new_tokens=5: raise it",
        ),
        (
            {"perplexity_model": "reference"},
            {"temperature": 0.7},
            "model.evaluation.perplexity_model=reference: with model.sampling.temperature=0.7 it "
            "would be another model's; name a model's folder or hub id, or give temperature=1",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_a_model_opens(
    plan: dict[str, Any], sampling: dict[str, Any], message: str
) -> None:
    reward = ClassifierReward("a folder that is not there")
    with pytest.raises(InputError) as caught:
        Evaluator(EvaluationPlan(**plan), reward, Sampling(**sampling), seed=0)
    assert str(caught.value) == message


def test_a_validation_gives_the_means_of_its_batches(evaluator: Evaluator) -> None:
    single = [evaluator.validate(collate_pairs([pair])) for pair in PAIRS[:5]]
    evaluator.validation.finish()
    for _ in range(2):  # each validation starts over
        evaluator.validate(collate_pairs(PAIRS[:3]))
        evaluator.validate(collate_pairs(PAIRS[3:5]))
        means = evaluator.validation.finish()
        for name in ("score", "toxicity", "length"):
            mean = torch.cat([figures[name] for figures in single]).double().mean()
            torch.testing.assert_close(means[f"val/{name}"].double(), mean, rtol=1e-5, atol=1e-6)


def test_a_test_leaves_a_comparison_of_its_batches(evaluator: Evaluator) -> None:
    assert evaluator.comparison is None
    for _ in range(2):
        evaluator.test(collate_pairs(PAIRS[:3]))
        evaluator.test(collate_pairs(PAIRS[3:5]))
        figures = evaluator.finish_test()
        assert evaluator.comparison is not None
        assert evaluator.comparison.prompts == collate_pairs(PAIRS[:5]).prompts
    after = evaluator.comparison.after.figures["toxicity"]
    assert figures["test/greedy/after/toxicity"] == pytest.approx(after[:, 0].mean())
    assert figures["test/after/toxicity"] == pytest.approx(after[:, 1].mean())


def test_the_judges_move_with_it_and_the_policy_does_not(evaluator: Evaluator) -> None:
    names = [name for name, _ in evaluator.named_parameters()]
    assert names
    assert all(name.startswith("judge.") for name in names)
    assert not any(parameter.requires_grad for parameter in evaluator.parameters())


def test_it_tells_how_it_samples_and_what_it_judges_by(
    evaluator: Evaluator, tiny_classifier: str
) -> None:
    weights = Path(tiny_classifier, "model.safetensors").read_bytes()
    assert evaluator.describe() == {
        "reward": "minus the words short of 2 or beyond 3",
        "toxicity_model": tiny_classifier,
        "toxic_label": "hate",
        "judges": {tiny_classifier: f"weights {sha256(weights).hexdigest()[:16]}"},
        "seed": 3,
        "samples": 1,
        "greedy": True,
        "max_new_tokens": 6,
        "min_new_tokens": 2,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    evaluator.plan = replace(evaluator.plan, top_p=0.5, max_new_tokens=9)
    assert {"max_new_tokens": 9, "top_p": 0.5}.items() <= evaluator.describe().items()

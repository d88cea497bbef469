"""Groups of people: whom a judge suspects, and to whom a policy gives short answers."""

from collections.abc import Callable
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import word_tokenizer
from detox_lightning.batches import IdentitySentences
from detox_lightning.evaluation.evaluator import Evaluator, Sampled, Side
from detox_lightning.evaluation.group_rates import MIN_TEMPLATES, GroupRates
from detox_lightning.evaluation.identity import audit_judges, compare_answers
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.report.identity_part import audit_text, identity_words
from detox_lightning.rewards import LengthReward
from toys import collate_pairs

TERMS = ["deaf", "gay", "jewish", "old"]


class Opened(NamedTuple):
    identity: str = "weights 0123"


class Named(NamedTuple):
    name: str = "made-up"
    model: Opened = Opened()


class MadeUp:
    """A judge that follows a rule."""

    classifier, label = Named(), "hate"

    def __init__(self, rule: Callable[[str], float]):
        self.rule = rule

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.tensor([self.rule(text) for text in texts])


def filled(templates: list[str], harmless: bool = True) -> IdentitySentences:
    pairs = [*product(templates, TERMS)]
    return IdentitySentences(
        [template.replace("{group}", term) for template, term in pairs],
        [term for _, term in pairs],
        [template for template, _ in pairs],
        [harmless] * len(pairs),
    )


def plain(number: int, what: str = "is") -> list[str]:
    return [f"w{place} {what} {{group}}" for place in range(number)]


def audited(rule: Callable[[str], float], *parts: IdentitySentences) -> dict[str, Any]:
    columns = [[*chain(*column)] for column in zip(*parts, strict=True)]
    judges: Any = {"toxicity": MadeUp(rule)}
    return audit_judges(judges, IdentitySentences(*columns), seed=0)


def place(text: str) -> int:
    return int(text.split()[0][1:])


def test_a_planted_bias_is_found_and_named() -> None:
    found = audited(lambda text: 0.9 if "gay" in text else 0.1, filled(plain(30)))
    alarms = found["judges"]["toxicity"]["false_alarms"]
    assert alarms["named"] == ["gay"]
    assert alarms["tested"] == 4
    assert alarms["confidence"] == pytest.approx(1 - 0.05 / 4)
    assert alarms["overall"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert alarms["groups"]["gay"] == {
        "sentences": 30,
        "templates": 30,
        "rate": {"value": 1.0, "low": 1.0, "high": 1.0},
        "difference": {"value": 1.0, "low": 1.0, "high": 1.0},
    }
    assert alarms["groups"]["deaf"]["difference"]["value"] == pytest.approx(-1 / 3)
    assert found["judges"]["toxicity"]["misses"] is None
    (worst,) = found["judges"]["toxicity"]["worst"]
    assert worst["group"] == "gay"
    assert worst["toxicity"] == pytest.approx(0.9)
    assert "toxic more often if they are about: gay (100.0\xa0%); of all groups 25.0" in audit_text(
        found
    )


def test_rates_and_misses_are_shares_of_sentences() -> None:
    """Of 24 harmless ones, 18 about gay people and 2 about each other group; .5 is toxic."""

    def rule(text: str) -> float:
        if "hates" in text:
            return 0.4 if "old" in text and place(text) < 3 else 0.5
        return 0.5 if place(text) < (18 if "gay" in text else 2) else 0.49

    found = audited(rule, filled(plain(24)), filled(plain(12, "hates"), False))
    assert found["about"]["sentences"] == 36 * 4
    assert found["about"]["harmless"] == 24 * 4
    judged = found["judges"]["toxicity"]
    gay = judged["false_alarms"]["groups"]["gay"]
    assert gay["rate"]["value"] == 18 / 24
    assert gay["difference"]["value"] == pytest.approx(18 / 24 - 6 / 72)
    assert judged["false_alarms"]["overall"]["value"] == 24 / 96
    low, high = gay["rate"]["low"], gay["rate"]["high"]  # 1.96 standard deviations: .75 ± .173
    assert (low, high) == pytest.approx((0.75 - 0.173, 0.75 + 0.173), abs=0.03)
    assert judged["false_alarms"]["named"] == ["gay"]
    assert [*judged["false_alarms"]["groups"]] == ["gay", "deaf", "jewish", "old"]
    assert judged["misses"]["groups"]["old"]["rate"]["value"] == 3 / 12
    assert judged["misses"]["groups"]["gay"]["rate"]["value"] == 0


def test_a_judge_that_minds_other_words_names_nobody() -> None:
    """The sentences of a template stay together, so there is no difference at all."""
    found = audited(lambda text: float(place(text) % 3 == 0), filled(plain(30)))
    alarms = found["judges"]["toxicity"]["false_alarms"]
    assert alarms["named"] == []
    for entry in alarms["groups"].values():
        assert entry["rate"]["value"] == 1 / 3
        assert entry["rate"]["low"] < 0.25 < 0.4 < entry["rate"]["high"]
        assert entry["difference"] == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-12)
    assert "The first classifier has no more false alarms for one group" in audit_text(found)


def test_chance_names_nobody_although_there_are_many_groups() -> None:
    """Twenty groups whose alarms are coins; uncorrected intervals would name one in 40."""
    pairs = [*product(range(40), range(20))]
    groups, templates = [f"g{group}" for _, group in pairs], [f"t{place}" for place, _ in pairs]
    sentences = IdentitySentences([""] * 800, groups, templates, [True] * 800)
    everywhere, named = np.ones(800, dtype=bool), []
    for seed in range(10):
        coins = np.random.default_rng(seed).random(800) < 0.3
        named += GroupRates(sentences, seed).rates(coins, everywhere)["named"]
    assert len(named) <= 1


def test_few_templates_are_too_few() -> None:
    found = audited(lambda text: float("gay" in text), filled(plain(MIN_TEMPLATES - 1)))
    alarms = found["judges"]["toxicity"]["false_alarms"]
    assert (alarms["tested"], alarms["named"]) == (0, [])
    assert "No group had 10 templates: too few to compare." in audit_text(found)


class Shortening(Evaluator):
    """After training, half of the answers about gay people are one token, or empty."""

    def respond(self, batch: Any, decodings: Any, side: Side, encoded: Any = None) -> Sampled:
        sampled = super().respond(batch, decodings, side, encoded)
        texts, mask = [*sampled.responses.texts], sampled.responses.mask.clone()
        for row, prompt in enumerate(batch.prompts):
            mask[row], texts[row] = True, "an answer of some words"
            if side == "after" and "gay" in prompt and place(prompt) % 2:
                mask[row, 1:], texts[row] = False, ""
        return sampled._replace(responses=sampled.responses._replace(mask=mask, texts=texts))


@pytest.fixture
def shortening(tiny_t5: str, tiny_classifier: str) -> Evaluator:
    sampling = Sampling(max_new_tokens=6, min_new_tokens=6)
    plan = EvaluationPlan(toxicity_model=tiny_classifier, perplexity_model="reference")
    evaluator = Shortening(plan, LengthReward(2, 3), sampling, seed=3)
    evaluator.load(load_policy(tiny_t5, LoRA(r=4), sampling), word_tokenizer(), 64)
    return evaluator


def test_answers_that_became_short_for_one_group(shortening: Evaluator) -> None:
    sentences = filled(plain(12))
    batch = collate_pairs([(text, "") for text in sentences.texts])
    found = compare_answers(shortening, batch, sentences, seed=0)
    assert (found["prompts"], found["decoding"]) == (48, "greedy")
    shortened = found["shortened"]
    assert shortened["named"] == ["gay"]
    assert shortened["groups"]["gay"]["rate"]["value"] == 0.5
    assert shortened["groups"]["old"]["rate"]["value"] == 0
    gay, old = (found["figures"]["length"][group] for group in ("gay", "old"))
    assert (gay["before"]["value"], gay["after"]["value"]) == (6, 3.5)
    assert gay["difference"]["high"] < 0
    assert old["difference"] == {"value": 0, "low": 0, "high": 0}
    toxicity = shortening.judge.toxicity
    assert toxicity is not None
    of_text, of_nothing = toxicity(["an answer of some words", ""]).double().tolist()
    figure = found["figures"]["toxicity"]["gay"]
    assert figure["before"]["value"] == pytest.approx(of_text)
    assert figure["after"]["value"] == pytest.approx((of_text + of_nothing) / 2)
    assert {*found["figures"]} == {"length", "toxicity", "perplexity"}
    perplexity = found["figures"]["perplexity"]["old"]
    assert perplexity["before"] == pytest.approx(perplexity["after"])  # a new adapter does nothing
    audit = audited(lambda text: 0.0, sentences)
    words = identity_words({"audit": audit, "answers": found})
    assert "Training shortened answers more often to sentences about: gay (50.0\xa0%);" in words
    words = identity_words({"audit": audit | {"judges": {}}, "answers": found})  # nobody judges
    assert words.endswith("98.75% ones (Bonferroni), from a bootstrap over templates.")

"""What a validation finds beyond means: variety, similarity, and a judge that is held out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import word_tokenizer
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.statistics import distinct, summarize
from detox_lightning.evaluation.validation import Validation
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.rewards import ClassifierReward, LengthReward, Reward, SimilarityReward
from numerics import float32
from toys import PAIRS, collate_pairs

SAMPLING = Sampling(max_new_tokens=6, min_new_tokens=2)
BATCHES = [collate_pairs(PAIRS[:3]), collate_pairs(PAIRS[3:5])]


@pytest.fixture(scope="module")
def policy(tiny_t5: str) -> Policy:
    return load_policy(tiny_t5, LoRA(r=4), SAMPLING)


def evaluator(policy: Policy, reward: Reward | None = None, **plan: Any) -> Evaluator:
    made = Evaluator(EvaluationPlan(**plan), reward or LengthReward(2, 3), SAMPLING, seed=3)
    made.load(policy, word_tokenizer(), 5)
    return made


def validate(made: Evaluator, *order: int) -> dict[str, float]:
    for number in order:
        made.validate(BATCHES[number])
    return {name: float(value) for name, value in made.validation.finish().items()}


def test_before_training_responses_are_those_of_the_reference(
    policy: Policy, tiny_encoder: str
) -> None:
    made = evaluator(policy, similarity_model=tiny_encoder)
    found = validate(made, 0, 1)
    assert found["val/similarity_before"] == pytest.approx(1, abs=float32(32))
    sampled = [made.evaluate(x, ["sample 1"] * len(x.prompts), ("after",)) for x in BATCHES]
    texts = [text for each in sampled for text in each["after"][0]]
    prompts = [prompt for batch in BATCHES for prompt in batch.prompts]
    reward = SimilarityReward(tiny_encoder)
    reward.load()
    expected = reward(prompts, texts, prompts)
    assert made.validation.figures["similarity_prompt"].tolist() == pytest.approx(
        expected.tolist(), abs=float32(32)
    )
    assert found["val/similarity_prompt"] == pytest.approx(float(expected.mean()), abs=float32(32))
    for size in (1, 2, 3):
        assert found[f"val/distinct{size}"] == pytest.approx(distinct(texts, size), abs=float32(1))
    assert set(found) == {f"val/{name}" for name in made.validation.names}


def test_a_test_compares_both_sides_with_the_prompt_and_with_each_other(
    policy: Policy, tiny_encoder: str
) -> None:
    """What the reference answered isn't compared with itself."""
    made = evaluator(policy, similarity_model=tiny_encoder, samples=2)
    batch, size = BATCHES[0], float32(32)
    answers = made.compare(batch).comparison
    old, new = answers.before.figures, answers.after.figures
    assert "similarity_before" not in old
    assert new["similarity_before"] == pytest.approx(1, abs=size)  # it is untrained
    reward = SimilarityReward(tiny_encoder)
    reward.load()
    for column in range(3):
        texts = [row[column] for row in answers.before.texts]
        expected = reward(batch.prompts, texts, batch.prompts).tolist()
        for figures in (old, new):
            assert figures["similarity_prompt"][:, column] == pytest.approx(expected, abs=size)
    found = summarize(answers, seed=0)["sampled"]
    assert found["similarity_before"]["before"] is None
    assert found["similarity_prompt"]["difference"]["value"] == pytest.approx(0, abs=size)


def test_of_different_texts_the_cosine_is_below_one(tiny_encoder: str) -> None:
    judge = Judge(EvaluationPlan(similarity_model=tiny_encoder), LengthReward(2, 3))
    judge.load()
    before: dict[str, torch.Tensor] = {}
    after: dict[str, torch.Tensor] = {}
    prompts, old, new = ["Ann is sad"] * 2, ["Bob", "Ann is sad"], ["Bob", "Eve is late"]
    judge.add_similarity(prompts, (old, before), (new, after))
    assert before["similarity_prompt"][1] == pytest.approx(1, abs=float32(32))
    assert before["similarity_prompt"][0] == after["similarity_prompt"][0]
    assert after["similarity_before"][0] == pytest.approx(1, abs=float32(32))
    assert after["similarity_before"][1] == pytest.approx(float(after["similarity_prompt"][1]))
    assert after["similarity_before"][1] < 1 - float32(32)


def test_the_reference_answers_once(
    policy: Policy, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sides = evaluator(policy, similarity_model=tiny_encoder), []
    evaluate, respond = made.evaluate, made._sample_before
    monkeypatch.setattr(made, "evaluate", lambda *x: sides.append(x[2]) or evaluate(*x))
    monkeypatch.setattr(made, "_sample_before", lambda *x: sides.append(("before",)) or respond(*x))
    first = validate(made, 0, 1)
    assert sides == [("after",), ("before",)] * 2
    assert validate(made, 0, 1) == first
    assert sides[4:] == [("after",)] * 2
    made.validate(BATCHES[0]._replace(places=BATCHES[0].places + 1))  # other noise
    assert sides[6:] == [("after",), ("before",)]


def test_each_response_s_figures_are_in_the_order_of_the_data(
    policy: Policy, tiny_classifier: str
) -> None:
    made = evaluator(policy, toxicity_model=tiny_classifier)
    validate(made, 0, 1)
    figures = made.validation.figures
    assert set(figures) == {"score", "toxicity"}
    validate(made, 1, 0, 0)  # the last batch of a rank may have prompts of another one
    assert all(torch.equal(figures[name], made.validation.figures[name]) for name in figures)


def test_the_encoder_is_shared_with_the_reward(tiny_encoder: str, tiny_classifier: str) -> None:
    reward = SimilarityReward(tiny_encoder)
    assert Judge(EvaluationPlan(), reward).encoder is reward.encoder
    assert Judge(EvaluationPlan(similarity_model=tiny_encoder), reward).encoder is reward.encoder
    other = Judge(EvaluationPlan(similarity_model="other"), reward).encoder
    assert other is not None
    assert other.name == "other"
    assert Judge(EvaluationPlan(), ClassifierReward(tiny_classifier)).encoder is None


@pytest.mark.parametrize(
    ("second", "held_out", "gap"),
    [(None, None, False), ("other", "second_toxicity", True), ("same", None, True)],
)
def test_a_judge_is_held_out_if_it_is_not_in_the_reward(
    second: str | None, held_out: str | None, gap: bool
) -> None:
    plan = EvaluationPlan(second_toxicity_model=second)
    validation = Validation(Judge(plan, ClassifierReward("same")))
    assert validation.held_out == held_out
    assert ("toxicity_gap" in validation.names) is gap
    assert ("second_toxicity" in validation.names) is gap
    assert "similarity_prompt" not in validation.names


def test_a_folder_is_the_same_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge").mkdir()
    for name in ("judge", "./judge", str(tmp_path / "judge")):
        plan = EvaluationPlan(second_toxicity_model=name)
        assert not Judge(plan, ClassifierReward("judge")).has_held_out

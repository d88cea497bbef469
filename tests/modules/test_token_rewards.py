"""Runs whose rewards score tokens."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import word_tokenizer
from detox_lightning.algorithm.advantages import GAE
from detox_lightning.algorithm.experience import ScoreShaping
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.ppo.checks import warn_of_discount
from detox_lightning.rewards import PrefixReward, Reward, WeightedReward
from numerics import FLOAT32
from ppo_toys import Liking, WatchedPPO, fit, listen, make_module
from toys import PAIRS, collate_pairs


def ones(prefixes: list[list[str]]) -> list[list[float]]:
    return [[1.0] * len(texts) for texts in prefixes]


def spoilt(prefixes: list[list[str]]) -> list[list[float]]:
    return [[float("nan")] * len(texts) for texts in prefixes]


def run(
    folder: Path, models: tuple[str, str], reward: Reward, monkeypatch: pytest.MonkeyPatch
) -> tuple[WatchedPPO, Tensor]:
    """A rollout, and the rewards of its tokens from each of them on."""
    heard = listen(monkeypatch, "to_experience")
    shaping = ScoreShaping(scale=True, missing_eos_penalty=1.0)
    module = make_module(*models, reward=reward, advantage=GAE(1.0, 1.0), scores=shaping)
    fit(folder, module, rollouts=1)
    return module, heard[-1].returns


def test_a_rollout_told_token_by_token(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curves and its rewards are those of the whole texts; only what is earned when differs."""
    models = tiny_t5, tiny_classifier
    plain, at_the_end = run(tmp_path, models, Liking(), monkeypatch)
    told, at_once = run(tmp_path, models, PrefixReward(Liking()), monkeypatch)
    assert torch.allclose(at_the_end[:, 0], at_once[:, 0], atol=10 * FLOAT32)
    assert (at_the_end - at_once).abs().max() > 0.5
    same = ("objective/", "rewards/", "tokens/")
    for name, value in plain.watched[0].metrics.items():
        if name.startswith(same):
            assert told.watched[0].metrics[name] == pytest.approx(value, abs=FLOAT32), name
    assert told.samples.scores == plain.samples.scores  # type: ignore[union-attr]


@pytest.mark.parametrize("weighted", [False, True])
def test_a_discount_is_spoken_of_as_it_pays_for_beginnings(weighted: bool) -> None:
    """Of two texts of the same reward, the one that has it sooner is worth more."""
    told: Reward = PrefixReward(Liking())
    reward = WeightedReward([told]) if weighted else told
    with pytest.warns(UserWarning, match=r"^model.advantage.gamma=0.9, model.reward: the token "):
        warn_of_discount(GAE(0.9), reward)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_discount(GAE(0.9), WeightedReward([Liking()]))
        warn_of_discount(GAE(), reward)
    sooner, later = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    returns = [GAE(0.9, 1.0)(x, 0 * x, mask)[1][0, 0] for x in (sooner, later)]
    assert [float(x) for x in returns] == pytest.approx([1, 0.9])


def test_tokens_count_beside_texts_and_a_fault_s_file_has_them(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    reward = WeightedReward([Liking(), ones], [1.0, 2.0])
    module = make_module(tiny_t5, tiny_classifier, reward=reward)
    assert module.columns == {}  # the data is asked for none
    fit(tmp_path, module, rollouts=1)
    (step,), samples = module.watched, module.samples
    assert samples is not None
    liking = Liking()([], samples.responses, []).tolist()
    assert samples.scores == [x + 2 * n for x, n in zip(liking, samples.lengths, strict=True)]
    assert step.metrics["rewards/ones"] == step.metrics["tokens/responses_len_mean"]

    module = make_module(tiny_t5, tiny_classifier, reward=WeightedReward([Liking(), spoilt]))
    fit(tmp_path, module, rollouts=1)
    (fault,) = module.faults.kept
    assert fault.what.startswith("the reward 'spoilt' gave nan for the response ")
    assert fault.tensors["token_scores"].shape == fault.tensors["response_mask"].shape
    assert fault.tensors["token_scores"][:, 0].isnan().all()


def test_evaluation_adds_token_scores_up(tiny_t5: str, tiny_classifier: str) -> None:
    policy = load_policy(tiny_t5, LoRA(r=4), Sampling(max_new_tokens=6))
    policy.base.get_output_embeddings().weight.data[1] *= 10  # some responses end early
    plan = EvaluationPlan(toxicity_model=tiny_classifier, batch_size=3)
    evaluator = Evaluator(plan, WeightedReward([ones]), policy.sampling, seed=0)
    evaluator.load(policy, word_tokenizer(), 5)
    batch = collate_pairs(PAIRS)
    figures = evaluator.validate(batch)
    assert figures["score"].tolist() == figures["length"].tolist()
    assert len(figures["length"].unique()) > 1
    greedy = evaluator.compare(batch).comparison.after.figures["length"][:, 0]
    assert [row["score"] for row in evaluator.predict(batch)] == greedy.tolist()

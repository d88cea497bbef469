"""A limit on a measure, and GDPO, in whole rollouts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from detox_lightning.algorithm.advantages import GDPO, RLOO
from detox_lightning.algorithm.constraint import Constraint
from detox_lightning.algorithm.masks import whiten
from detox_lightning.errors import InputError
from detox_lightning.rewards import Reward, WeightedReward
from ppo_toys import ByPlace, Liking, WatchedPPO, equal, fit, listen, make_module


def limited(policy: str, classifier: str, **limit: Any) -> WatchedPPO:
    return make_module(policy, classifier, constraint=Constraint(**limit))


@pytest.fixture(scope="module")
def whole(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[WatchedPPO, Path]:
    """Three rollouts with a limit that random texts don't meet, saved after each."""
    folder = tmp_path_factory.mktemp("whole")
    module = limited(tiny_t5, tiny_classifier, measure="rouge1", at_least=0.9)
    every = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    fit(folder, module, rollouts=3, callbacks=[every], enable_checkpointing=True)
    return module, folder


def test_the_multiplier_grows_and_is_logged(whole: tuple[WatchedPPO, Path]) -> None:
    module, _ = whole
    values = [watched.metrics["objective/multiplier"] for watched in module.watched]
    assert values[0] == 0 < values[1] < values[2] < module.multiplier.value
    for metrics in (watched.metrics for watched in module.watched):
        assert metrics["objective/constraint"] == pytest.approx(metrics["rewards/rouge1"])
        assert 0 < metrics["objective/constraint"] < 0.5


def test_it_is_resumed_exactly(
    whole: tuple[WatchedPPO, Path], tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module, folder = whole
    resumed = limited(tiny_t5, tiny_classifier, measure="rouge1", at_least=0.9)
    fit(tmp_path, resumed, rollouts=3, ckpt_path=folder / "epoch=0.ckpt")
    assert resumed.multiplier.value == module.multiplier.value
    assert equal(resumed.copies(), module.copies())


def test_a_checkpoint_from_before_there_were_limits(
    whole: tuple[WatchedPPO, Path], tiny_t5: str, tiny_classifier: str
) -> None:
    checkpoint = torch.load(whole[1] / "epoch=0.ckpt", weights_only=True)
    assert checkpoint["detox_lightning"].pop("multiplier")["value"] > 0
    module = limited(tiny_t5, tiny_classifier, measure="rouge1", at_least=0.9)
    module.configure_model()
    module.on_load_checkpoint(checkpoint)
    assert (module.rollouts, module.multiplier.value) == (1, 0)


def test_a_limit_that_is_kept_changes_nothing(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    kept = limited(tiny_t5, tiny_classifier, measure="kl", at_most=1e6)
    plain = make_module(tiny_t5, tiny_classifier)
    for module in (kept, plain):
        fit(tmp_path, module, rollouts=2)
    assert equal(kept.copies(), plain.copies())
    metrics = kept.watched[1].metrics
    assert metrics["objective/constraint"] == pytest.approx(metrics["objective/kl"], abs=1e-6)
    assert metrics["objective/multiplier"] == 0
    assert "objective/multiplier" not in plain.watched[1].metrics


@pytest.mark.slow
def test_a_limit_on_kl_raises_its_price(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    module = limited(tiny_t5, tiny_classifier, measure="kl", at_most=-1.0)
    fit(tmp_path, module, rollouts=3)
    *_, metrics = (watched.metrics for watched in module.watched)
    assert metrics["objective/multiplier"] > 0
    charged = module.kl.coef + metrics["objective/multiplier"]
    assert metrics["objective/kl_coef"] == pytest.approx(charged, rel=1e-3)
    assert module.kl_coef == pytest.approx(module.kl.coef, rel=1e-2)  # but for its own controller


def test_parts_of_different_scales_count_alike(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = listen(monkeypatch, "measure")
    experiences = listen(monkeypatch, "to_experience")
    reward = WeightedReward([Liking(), ByPlace()], [1e3, -1.0])
    module = make_module(tiny_t5, tiny_classifier, reward=reward, advantage=GDPO(8))
    module.kl_coef = 0.0  # the price of a nat
    fit(tmp_path, module, rollouts=1, limit_train_batches=1)
    (rollout,), (experience,) = measured, experiences
    liking = (rollout.scores + (torch.arange(64) < 32)) / 1e3  # the scores stay raw
    parts = [x.view(8, 8) for x in (liking, (torch.arange(64) < 32).float())]
    standard = [(x - x.mean(1, True)) / (x.std(1, keepdim=True) + 1e-4) for x in parts]
    total = (1e3 * standard[0] - standard[1]).flatten()[:, None]
    mask = rollout.response_mask
    expected = whiten(torch.where(mask, total, 0), mask)
    torch.testing.assert_close(experience.advantages, expected, rtol=0, atol=1e-3)
    assert module.watched[0].metrics["rewards/liking"] == pytest.approx(
        float(liking.mean()), abs=1e-4
    )
    assert module.watched[0].metrics["objective/frac_reward_zero_std"] == 0


@pytest.mark.slow
def test_where_all_responses_of_a_prompt_score_alike(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """Scores by place: of four responses to each of eight prompts."""
    module = make_module(tiny_t5, tiny_classifier, reward=ByPlace(), advantage=RLOO(4))
    fit(tmp_path, module, rollouts=1)
    assert module.watched[0].metrics["objective/frac_reward_zero_std"] == 1


@pytest.mark.parametrize(
    ("reward", "limit"),
    [
        (Liking(), None),
        (Liking(), Constraint("rougeL", at_least=0.5)),  # which is measured, not paid for
        (WeightedReward([Liking(), ByPlace()], [1.0, 0.0]), None),
    ],
)
def test_gdpo_needs_two_parts_that_are_paid_for(
    reward: Reward, limit: Constraint | None, tiny_t5: str, tiny_classifier: str
) -> None:
    message = (
        "model.advantage=GDPO standardizes each part of a reward, and fewer than two parts of "
        "model.reward have a weight: give a WeightedReward of several, or advantage GRPO"
    )
    with pytest.raises(InputError, match=message):
        make_module(tiny_t5, tiny_classifier, reward=reward, constraint=limit, advantage=GDPO(4))

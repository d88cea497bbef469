"""Rollouts in which only values learn, and runs with a critic of its own."""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import save_random
from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.algorithm.advantages import RLOO
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.ppo.checks import warn_of_warmup
from detox_lightning.stages.optimization import Schedule
from modules.test_ppo_checkpoint import same, saving
from ppo_toys import WatchedPPO, equal, fit, make_module

WARMUP = 2
KINDS = ("head", "adapter", pytest.param("own", marks=pytest.mark.slow))
OPTIONS: dict[str, Any] = {
    "value_warmup": WARMUP,
    "kl": KLPenalty(target=0.1, horizon=100),
    "schedule": Schedule("linear"),
}


@pytest.fixture(scope="module", params=KINDS)
def critic(request: pytest.FixtureRequest, smaller_t5: str) -> str:
    return smaller_t5 if request.param == "own" else request.param


@pytest.fixture(scope="module")
def run(
    critic: str, tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[WatchedPPO, Path]:
    """Four rollouts at a stretch, the first two of them the warm-up's; saved after each."""
    folder = tmp_path_factory.mktemp("run")
    module = make_module(tiny_t5, tiny_classifier, critic=critic, critic_lr=0.02, **OPTIONS)
    fit(folder, module, rollouts=4, **saving(folder))
    return module, folder


def policys(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in weights.items() if name.startswith("policy.model.")}


def test_in_the_warm_up_only_values_learn(run: tuple[WatchedPPO, Path]) -> None:
    module, folder = run
    for step in module.watched[:WARMUP]:
        assert equal(policys(step.before), policys(step.after))
        assert not equal(step.before, step.after)
        assert step.metrics["objective/kl_coef"] == pytest.approx(module.kl.coef)
        assert abs(step.metrics["objective/kl"]) < 1e-5  # but for rounding
        assert step.metrics["ppo/grad_norm"] > 0
    saved = torch.load(folder / f"epoch={WARMUP - 1}.ckpt", weights_only=True)
    (optimizer,) = saved["optimizer_states"]
    policy, values = (set(group["params"]) for group in optimizer["param_groups"])
    assert optimizer["state"].keys() == values
    assert len(policy) == len(policys(saved["state_dict"]))
    third = module.watched[WARMUP]
    assert all(not torch.equal(third.before[n], x) for n, x in policys(third.after).items())
    assert module.kl_coef != module.kl.coef


def test_a_run_resumed_in_the_warm_up_is_the_uninterrupted_one(
    run: tuple[WatchedPPO, Path], critic: str, tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module, folder = run
    resumed = make_module(tiny_t5, tiny_classifier, critic=critic, critic_lr=0.02, **OPTIONS)
    fit(tmp_path, resumed, rollouts=4, ckpt_path=folder / "epoch=0.ckpt", **saving(tmp_path))
    assert equal(resumed.copies(), module.copies())
    assert resumed.kl_coef == module.kl_coef
    states = [
        torch.load(where / "epoch=3.ckpt", weights_only=True)["optimizer_states"]
        for where in (tmp_path, folder)
    ]
    assert same(*states)


def test_another_run_begins_with_its_values(
    run: tuple[WatchedPPO, Path], critic: str, tmp_path: Path
) -> None:
    """From the exported folder and from a checkpoint."""
    module, folder = run
    module.export(tmp_path)
    learned = {n: x for n, x in module.policy.estimator.named_parameters() if x.requires_grad}
    for name in (str(tmp_path), str(folder / "epoch=3.ckpt")):
        again = load_policy(name, LoRA(), Sampling(), tokenizer=word_tokenizer(), critic=critic)
        assert again.restored_value_head
        found = dict(again.estimator.named_parameters())  # type: ignore[union-attr]
        assert learned
        assert all(torch.equal(found[n], x) for n, x in learned.items())
    other = "head" if critic != "head" else "adapter"
    fresh = load_policy(str(tmp_path), LoRA(), Sampling(), critic=other)
    assert not fresh.restored_value_head


def test_another_critic_than_the_checkpoint_s_is_refused(
    run: tuple[WatchedPPO, Path], critic: str, tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    checkpoint = run[1] / "epoch=0.ckpt"
    module = make_module(tiny_t5, tiny_classifier, critic=critic, **OPTIONS)
    with pytest.raises(InputError, match=r"critic_lr=null: the checkpoint's run.*one; give it"):
        fit(tmp_path, module, rollouts=4, ckpt_path=checkpoint)
    other = "head" if critic != "head" else "adapter"
    module = make_module(tiny_t5, tiny_classifier, critic=other, critic_lr=1.0, **OPTIONS)
    with pytest.raises(InputError, match=r"doesn't fit: model.critic is another one"):
        fit(tmp_path, module, rollouts=4, ckpt_path=checkpoint)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"critic": "adapter"}, "critic=adapter"),
        ({"critic_lr": 0.1}, "critic_lr=0.1"),
        ({"value_warmup": 3}, "value_warmup=3"),
    ],
)
def test_without_values_there_is_nothing_to_estimate(
    tiny_t5: str, tiny_classifier: str, options: dict[str, Any], flag: str
) -> None:
    with pytest.raises(InputError, match=f"^model.{flag}: model.advantage=RLOO uses no values; "):
        make_module(tiny_t5, tiny_classifier, advantage=RLOO(), **options)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"critic": "adapter"}, "critic=adapter"),
        ({"critic_lr": 0.1}, "critic_lr=0.1"),
        ({"value_warmup": 3}, "value_warmup=3"),
    ],
)
def test_what_estimates_values_must_learn(
    tiny_t5: str, tiny_classifier: str, options: dict[str, Any], flag: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, loss=PPOLoss(vf_coef=0.0), **options)
    with pytest.raises(InputError) as caught:
        fit(tmp_path, module, 1)
    assert str(caught.value) == (
        f"model.{flag}, model.loss.vf_coef=0: what estimates values would learn nothing; leave "
        f"{flag.partition('=')[0]} out, or give a vf_coef above 0"
    )


def test_a_warm_up_as_long_as_the_run_is_spoken_of(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    told = (
        "model.value_warmup=1: the run ends after rollout 1, so that only values learn and the "
        "policy stays as it is; give a shorter warm-up, or a longer run, if it shall learn"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(told)}$"):
        fit(tmp_path, make_module(tiny_t5, tiny_classifier, value_warmup=1), rollouts=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for warmup, rollouts in ((2, 3), (2, math.inf), (0, 0)):
            warn_of_warmup(warmup, rollouts)


def test_a_critic_that_does_not_fit_is_refused(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """Before any model is opened, and without a data module of the package, too."""
    tiny_t5_model().save_pretrained(tmp_path / "t5")
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "t5")
    llama = save_random("Llama", tmp_path / "llama")
    cases = {
        llama: "this is a decoder-only model, and the policy",
        str(tmp_path / "t5"): "its tokenizer isn't that of",
        "adapter": "model.lora=null: such a critic shares the policy's frozen base",
    }
    for critic, message in cases.items():
        lora = None if critic == "adapter" else LoRA(r=4)
        module = make_module(tiny_t5, tiny_classifier, critic=critic, lora=lora)
        with pytest.raises(InputError, match=rf"^model.critic={critic}.*{message}"):
            fit(tmp_path, module, rollouts=1)
        assert module.policy is None

"""Numbers that no run can work with, refused by their flag before a model is opened."""
# ruff: noqa: E501 -- messages are to be read whole

import math
from functools import partial
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from bad_input.cases import Case, Place, check
from command import DEMO, printed
from detox_lightning.errors import InputError
from detox_lightning.modules import RewardModule, SupervisedModule
from detox_lightning.ppo import policy_stage
from detox_lightning.stages.number_bounds import check_number, leaves
from detox_lightning.stages.optimization import try_out
from toys import make_trainer, pairs_loader, texts_loader

WILD = "{}={}: must be a number from -1e+12 to 1e+12; where there should be no bound, leave it out, or give null"
WIDE = "{}={}: must be a number up to 1e+06, and a learning rate not below 0"
ALPHA = "--model.lora.alpha={}: must be a number above 0"
FLAGS = {
    "--model.optimizer.lr=.inf": WILD.format("--model.optimizer.lr", "inf"),
    "--model.optimizer.lr=.nan": WILD.format("--model.optimizer.lr", "nan"),
    "--model.optimizer.lr=1e38": WILD.format("--model.optimizer.lr", "1e+38"),
    "--model.optimizer.lr=1e7": WIDE.format("--model.optimizer.lr", "10000000.0"),
    "--model.optimizer.lr=-1": "--model.optimizer.lr=-1.0: Invalid learning rate: -1.0; give another number",
    "--model.optimizer.betas=[0.9,1.5]": "--model.optimizer.betas=(0.9, 1.5): Invalid beta parameter at index 1: 1.5; "
    "give another number",
    "--model.optimizer.weight_decay=.nan": WILD.format("--model.optimizer.weight_decay", "nan"),
    "--model.schedule.warmup_steps=inf": WILD.format("--model.schedule.warmup_steps", "inf"),
    "--model.kl.coef=inf": WILD.format("--model.kl.coef", "inf"),
    "--model.kl.target=1e38": WILD.format("--model.kl.target", "1e+38"),
    "--model.sampling.temperature=inf": WILD.format("--model.sampling.temperature", "inf"),
    "--model.lora.alpha=inf": WILD.format("--model.lora.alpha", "inf"),
    "--model.lora.alpha=-.inf": ALPHA.format("-.inf"),
    "--model.lora.alpha=.nan": ALPHA.format(".nan"),
    "--model.lora.alpha=-1": ALPHA.format("-1"),
    "--trainer.gradient_clip_val=.nan": WILD.format("--trainer.gradient_clip_val", "nan"),
}


@pytest.mark.quick(5)
@pytest.mark.parametrize("flag", FLAGS)
def test_wild_numbers(flag: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_stage, "load_policy", None)
    check(Case(flag, (flag,), FLAGS[flag]), place)


@pytest.mark.parametrize("value", ["-1x", "-x", "-1e-3", "-.inf", "-0.1.2"])
def test_a_value_with_a_dash_needs_no_equals_sign(value: str, place: Place) -> None:
    message = f"--model.kl.coef={value}: must be a number of at least 0"
    check(Case(value, ("--model.kl.coef", value), message), place)


def test_a_negative_number_with_an_exponent_is_a_value() -> None:
    config = printed("fit", "--config", DEMO, "--model.optimizer.lr", "-1e-3")
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == -0.001


def test_wild_numbers_within_others() -> None:
    options = {"alpha_pattern": {"q": [1.0, -math.inf]}}
    lora = Namespace(init_args=Namespace(lora=Namespace(options=options)))
    config = Namespace(model=lora, trainer=Namespace(max_epochs=10**400), x=True)
    found = {flag: value for flag, value, *_ in leaves(config)}
    flag = "model.lora.options.alpha_pattern.q.1"
    assert found.keys() == {flag, "model.lora.options.alpha_pattern.q.0", "trainer.max_epochs", "x"}
    for fine in found.keys() - {flag}:
        check_number(fine, found[fine])
    with pytest.raises(InputError, match=f"^--{flag}=-inf: must be"):
        check_number(flag, found[flag])


OPTIONS: dict[str, Any] = {
    "lr": math.inf,
    "betas": (0.9, math.nan),
    "eps": 1e38,
    "weight_decay": math.inf,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_optimizers_that_would_break_weights(option: str) -> None:
    with pytest.raises(InputError, match=rf"^--model.optimizer.{option}\b.*="):
        try_out(partial(torch.optim.Adam, **{option: OPTIONS[option]}), has_closure=False)


def test_optimizers_that_work() -> None:
    made = [torch.optim.ASGD, torch.optim.Adafactor, partial(torch.optim.Adam, lr=0.0)]
    made += [partial(torch.optim.AdamW, lr=torch.tensor(1e-3)), torch.optim.LBFGS]
    for make in made:
        try_out(make, has_closure=True)
    with pytest.raises(InputError, match=r"^--model.optimizer: this makes a int, which is no"):
        try_out(lambda parameters: 0, has_closure=False)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("stage", ["supervised", "reward"])
def test_the_stages_before_look_at_theirs(
    tiny_t5: str, tiny_encoder: str, tmp_path: Any, stage: str
) -> None:
    make = partial(torch.optim.Adam, lr=math.inf)
    is_supervised = stage == "supervised"
    module: Any = (
        SupervisedModule(tiny_t5, optimizer=make)
        if is_supervised
        else RewardModule(tiny_encoder, optimizer=make)
    )
    loader = pairs_loader() if is_supervised else texts_loader()
    with pytest.raises(InputError, match=r"^--model\.optimizer\.lr=inf: "):
        make_trainer(tmp_path, max_epochs=1).fit(module, loader)
    assert module.model is None

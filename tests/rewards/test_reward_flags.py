"""Rewards out of configurations and flags, one of the user's own among them."""

import shlex
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml

import detox_lightning.rewards
from command import DEMO, ROOT, IdleCLI, printed, run, tiny_recipe
from detox_lightning.cli import command
from detox_lightning.rewards import (
    ClassifierReward,
    LengthReward,
    Reward,
    RougeReward,
    WeightedReward,
)
from numerics import FLOAT32
from pages import blocks

WEIGHTED = """\
model:
  init_args:
    reward:
      class_path: WeightedReward
      init_args:
        rewards:
        - class_path: ClassifierReward
          init_args: {model: "demo:classifier", output: log_odds}
        - class_path: RougeReward
          init_args: {kind: rouge2}
        - class_path: LengthReward
          init_args: {low: 5, high: 30}
        weights: [1, 2, 0.1]
    evaluation: {toxicity_model: "demo:classifier"}
"""
FORMULA = (
    "1 × (log_odds of 'nothate' by demo:classifier) + 2 × (rouge2 with the reference) "
    "+ 0.1 × (minus the words short of 5 or beyond 30)"
)
PAGE = ROOT / "docs" / "recipes" / "reward.md"
TOXICITY = "--model.evaluation.toxicity_model=demo:classifier"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a cache of its own; the seed that a run sets ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def my_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the documentation, to the letter, as a module beside the user."""
    (example,) = (x.code for x in blocks(PAGE) if x.title == "my_rewards.py")
    (tmp_path / "my_rewards.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)


def made(*flags: str) -> Reward:
    """The reward that these flags amount to."""
    reward: Reward = IdleCLI(["fit", "--config", DEMO, TOXICITY, *flags]).model.reward
    return reward


def test_short_names() -> None:
    options = {
        "ClassifierReward": ("--model.reward.model=c",),
        "FunctionReward": ("--model.reward.function=math.sqrt",),
        "LengthReward": ("--model.reward.low=1", "--model.reward.high=2"),
        "PrefixReward": ("--model.reward.reward=math.sqrt",),
        "RougeReward": (),
        "SimilarityReward": (),
        "WeightedReward": ("--model.reward.rewards=[]",),
    }
    assert {*options, "Reward"} == set(detox_lightning.rewards.__all__)
    for name, flags in options.items():
        config = printed("fit", "--config", DEMO, f"--model.reward={name}", *flags)
        found = config["model"]["init_args"]["reward"]
        assert found["class_path"] == f"detox_lightning.{name}"


def test_a_weighted_reward_from_a_file() -> None:
    Path("weighted.yaml").write_text(WEIGHTED)
    reward = made("--config", "weighted.yaml")
    assert isinstance(reward, WeightedReward)
    assert reward.describe() == FORMULA
    assert reward.weights == [1.0, 2.0, 0.1]
    kinds = [type(part) for _, part in reward.weighted]
    assert kinds == [ClassifierReward, RougeReward, LengthReward]
    again = made("--config", "weighted.yaml", "--model.reward.weights=[3,2,1]")
    assert again.describe().startswith("3 × (log_odds")


def test_a_weighted_reward_from_flags() -> None:
    reward = made(
        "--model.reward=WeightedReward",
        "--model.reward.rewards+=ClassifierReward",
        "--model.reward.rewards.model=demo:classifier",
        "--model.reward.rewards.output=log_odds",
        "--model.reward.rewards+=RougeReward",
        "--model.reward.rewards.kind=rouge2",
        "--model.reward.rewards+=LengthReward",
        "--model.reward.rewards.low=5",
        "--model.reward.rewards.high=30",
        "--model.reward.weights=[1,2,0.1]",
    )
    assert reward.describe() == FORMULA


def test_no_label() -> None:
    flags = ('--model.reward={"label": null}', "--model.reward.name=tameness")
    reward = made("--model.reward=ClassifierReward", "--model.reward.model=r", *flags)
    assert isinstance(reward, ClassifierReward)
    assert (reward.label, reward.name) == (None, "tameness")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.reward.weights=[1,2]"], "reward.weights=[1.0, 2.0]: 2 for 3 rewards; "),
        (["--model.reward.rewards=[]"], "reward.rewards=[]: name at least one reward"),
        (
            [
                "--model.reward.rewards+=RougeReward",
                "--model.reward.rewards.kind=rouge2",
                "--model.reward.weights=[1,2,3,4]",
            ],
            "reward.rewards: 2 of them are named 'rouge2'; give each a name of its own, ",
        ),
        (
            ["--model.reward=LengthReward", "--model.reward.low=3", "--model.reward.high=2"],
            "reward.low=3 is above reward.high=2: change one of them",
        ),
    ],
)
def test_mistakes_end_in_a_line(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.setattr(command, "DetoxCLI", IdleCLI)
    Path("weighted.yaml").write_text(WEIGHTED)
    outcome = run("fit", "--config", DEMO, "--config", "weighted.yaml", *flags)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(f"error: {message}")
    assert "Traceback" not in outcome.err


# -- one's own


@pytest.mark.usefixtures("my_rewards")
def test_the_example_by_its_class_path() -> None:
    reward = made("--model.reward=my_rewards.Politeness")
    assert (type(reward).__name__, reward.name) == ("Politeness", "politeness")
    assert reward.describe() == "Politeness (politeness)"
    texts = ["Please come, thanks", "please, please", "You fool", ""]
    assert reward([""] * 4, texts, texts).tolist() == [2, 1, 0, 0]
    assert reward.parts([""] * 4, texts, texts)["politeness"].tolist() == [2, 1, 0, 0]


@pytest.mark.usefixtures("my_rewards")
def test_the_flags_that_the_documentation_names() -> None:
    (command,) = (x.code for x in blocks(PAGE) if "--model.reward my_rewards" in x.code)
    words = shlex.split(command.replace("\\\n", ""))[6:]
    reward = made(*words)
    assert reward([""], ["please, and sorry"], [""]).tolist() == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("my_rewards")
def test_training_for_several_rewards_at_once(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str
) -> None:
    """The user's own one among them; the checkpoint opens without running code."""
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    rewards: list[dict[str, Any]] = [
        {"class_path": "ClassifierReward", "init_args": {"model": tiny_classifier}},
        {"class_path": "LengthReward", "init_args": {"low": 3, "high": 4}},
        {"class_path": "my_rewards.Politeness", "init_args": {"words": "a e"}},
    ]
    weighted = {"rewards": rewards, "weights": [1.0, 0.1, -0.5]}
    reward = {"class_path": "WeightedReward", "init_args": weighted}
    options = {"reward": reward, "evaluation": {"toxicity_model": tiny_classifier}}
    Path("mine.yaml").write_text(yaml.safe_dump({"model": {"init_args": options}}))
    model = command.DetoxCLI(["fit", "--config", recipe, "--config", "mine.yaml"]).model
    samples = model.samples
    parts = model.reward.parts(samples.prompts, samples.responses, samples.responses)
    assert list(parts) == ["nothate", "length", "politeness"]
    scores = parts["nothate"] + 0.1 * parts["length"] - 0.5 * parts["politeness"]
    assert samples.scores == pytest.approx(scores.tolist(), abs=FLOAT32)
    assert all(part.any() for part in parts.values())
    assert model.about["reward"].endswith("- 0.5 × (Politeness (politeness))")
    saved = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    kept = saved["hyper_parameters"]["reward"]["init_args"]
    assert kept["weights"] == [1.0, 0.1, -0.5]
    assert kept["rewards"][2]["init_args"] == {"words": "a e"}
    assert not any("reward" in name for name in saved["state_dict"])

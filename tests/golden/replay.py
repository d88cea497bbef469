"""The recorded episodes, run through ``PPOModule`` by a Trainer."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from conftest import word_tokenizer
from detox_lightning.algorithm import experience
from detox_lightning.algorithm.advantages import GAE
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.algorithm.masks import Reduce, alone, masked_moments
from detox_lightning.algorithm.metrics import UpdateMeter
from detox_lightning.algorithm.shaping import ScoreShaping
from detox_lightning.algorithm.types import Experience, Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, PolicyOutput, load_policy
from detox_lightning.models.reference import REFERENCE
from detox_lightning.ppo import actor
from detox_lightning.ppo import module as module_of_ppo
from detox_lightning.ppo.actor import Actor
from detox_lightning.ppo.learner import Learner
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import ClassifierReward
from detox_lightning.rollout import Responses, Scores
from golden.deviations import Parameters
from golden.records import DATA, ESTIMATORS, GoldenSet, episodes
from numerics import in_float64
from toys import make_trainer


def policy_folder(folder: Path) -> str:
    """Base, tokenizer and adapter as folders that find each other; the adapter's."""
    base, adapter = folder / "policy", folder / "adapter"
    shutil.copytree(DATA / "policy", base)
    shutil.copytree(DATA / "adapter_init", adapter)
    word_tokenizer().save_pretrained(base)  # is opened, and never asked
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return str(adapter)


def open_policy(folder: Path) -> Policy:
    """The recorded policy, as ``load_policy`` opens it."""
    return as_recorded(load_policy(policy_folder(folder), LoRA(), Sampling()))


def as_recorded(policy: Policy) -> Policy:
    """Sets the recorded value head, and makes the base the reference, as TRL did."""
    policy.model.delete_adapter(REFERENCE)
    head = load_file(DATA / "adapter_init" / "v_head.safetensors")
    policy.value_head.linear.load_state_dict(
        {name.removeprefix("summary."): value for name, value in head.items()}
    )
    return policy


class LeakyGAE(GAE):
    """TRL's whitening of rewards, before GAE.

    It whitens the zeros after a response's end, too, and then lets them flow back into the
    response's advantages as if they were rewards.
    """

    def __call__(
        self, rewards: Tensor, values: Tensor, mask: Tensor, reduce: Reduce = alone
    ) -> tuple[Tensor, Tensor]:
        mean, variance, count = masked_moments(rewards, mask, reduce)
        scale = torch.rsqrt(variance * count / (count - 1) + 1e-8)
        leaking = (rewards - mean) * scale + mean
        values = torch.where(mask, values, 0)
        return super().__call__(leaking, values, torch.ones_like(mask), reduce)


def module_options(config: dict[str, Any]) -> dict[str, Any]:
    """TRL's ``PPOConfig`` as arguments of ``PPOModule``."""
    return {
        "ppo_epochs": config["ppo_epochs"],
        "mini_batch_size": config["mini_batch_size"],
        "kl": KLPenalty(
            estimator=ESTIMATORS[config["kl_penalty"]],
            coef=config["init_kl_coef"],
            target=config["target"] if config["adap_kl_ctrl"] else None,
            horizon=config["horizon"],
        ),
        "scores": ScoreShaping(
            scale=config["use_score_scaling"],
            normalize=config["use_score_norm"],
            clip=config["score_clip"],
        ),
        "advantage": (LeakyGAE if config["whiten_rewards"] else GAE)(
            config["gamma"], config["lam"]
        ),
        "loss": PPOLoss(config["cliprange"], config["cliprange_value"], config["vf_coef"]),
        "max_grad_norm": config["max_grad_norm"],
        "ratio_threshold": config["ratio_threshold"],
        "early_stop_kl": config["target_kl"] if config["early_stopping"] else None,
        "optimizer": lambda params: torch.optim.Adam(params, lr=config["learning_rate"]),
    }


@dataclass
class Update:
    """What the module did in one mini-batch."""

    forward: PolicyOutput
    gradients: Parameters
    before: Parameters


@dataclass
class Step:
    """What the module did in one rollout."""

    kl_coef: float
    updates: list[Update] = field(default_factory=list)
    after: Parameters = field(default_factory=dict)
    kl_coef_after: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class RecordedActor(Actor):
    """Gives recorded responses and scores."""

    module: "ReplayModule"

    def respond_to(self, prompts: PromptBatch, number: int) -> Responses:
        self.module.steps.append(Step(self.module.kl_coef))
        return episodes()[number][1]

    def scores_of(self, prompts: PromptBatch, responses: Responses, number: int) -> Scores:
        self.register(prompts, responses, number)
        scores = episodes()[number][2]
        return Scores({self.reward.name: scores}, scores)


class ReplayModule(PPOModule):
    """Takes recorded responses, scores and shuffles in place of its own, and notes what follows."""

    golden: GoldenSet

    def configure_model(self) -> None:
        if self.policy is None:
            super().configure_model()
            as_recorded(self.policy)
            self.policy.register_forward_hook(self.note_forward)
            self.steps: list[Step] = []
            self.forward_now: Any = None

    def on_train_start(self) -> None:
        super().on_train_start()
        self.precision = in_float64(self.policy)  # the command refuses it before training starts
        self.precision.__enter__()
        self.actor = RecordedActor(**vars(self.actor))
        self.actor.module = self

    def on_train_end(self) -> None:
        self.precision.__exit__(None, None, None)
        super().on_train_end()

    def orders(self, rollout: Rollout) -> Iterator[Tensor]:
        return map(torch.tensor, self.golden.steps[self.rollouts]["permutations"])

    def note_forward(self, policy: Policy, rows: Any, output: PolicyOutput) -> None:
        if torch.is_grad_enabled():
            self.forward_now = PolicyOutput(*(x.detach() for x in output))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradients = self.copies(lambda parameter: parameter.grad)
        update = Update(self.forward_now, gradients, self.copies())
        self.steps[-1].updates.append(update)

    def on_train_batch_end(self, *args: Any) -> None:
        step = self.steps[-1]
        step.after, step.kl_coef_after = self.copies(), self.kl_coef
        step.metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}

    def copies(self, what: Callable[[Tensor], Any] = lambda parameter: parameter) -> Parameters:
        named = self.named_parameters()
        return {name: what(p).detach().clone() for name, p in named if p.requires_grad}


@dataclass
class Replay:
    """A whole set as the module ran it: one entry a step in each list."""

    golden: GoldenSet
    steps: list[Step]
    rollouts: list[Rollout]
    scores: list[Tensor]
    rewards: list[Tensor]
    experiences: list[Experience]
    meters: list[UpdateMeter]


def replay(golden: GoldenSet, classifier: str, folder: Path) -> Replay:
    """Trains on the recorded episodes of one set.

    Args:
        golden: The set.
        classifier: Any; the module wants one, and isn't going to ask it.
        folder: For temporary files.
    """
    reward = ClassifierReward(classifier)
    module = ReplayModule(policy_folder(folder), reward, **module_options(golden.config))
    module.golden = golden
    batches = [batch for batch, _, _ in episodes()[: len(golden.steps)]]
    with pytest.MonkeyPatch.context() as patch:
        heard = {
            "rollouts": listen(patch, actor, "measure"),
            "scores": listen(patch, experience, "shape_scores"),
            "rewards": listen(patch, experience, "token_rewards"),
            "experiences": listen(patch, module_of_ppo, "to_experience"),
            "meters": listen(patch, Learner, "learn"),
        }
        trainer = make_trainer(folder, max_epochs=1)
        trainer.fit(module, DataLoader(batches, batch_size=None))
    return Replay(golden, module.steps, **heard)


def listen(patch: pytest.MonkeyPatch, place: Any, name: str) -> list[Any]:
    """Collects what a function returns wherever ``place`` calls it."""
    function, heard = getattr(place, name), []

    def heeded(*args: Any, **kwargs: Any) -> Any:
        heard.append(function(*args, **kwargs))
        return heard[-1]

    patch.setattr(place, name, heeded)
    return heard

"""PPO on eight prompts with tiny models, and what happened in each of its rollouts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from detox_lightning.algorithm.masks import mask_from_lengths, response_lengths
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import PolicyOutput
from detox_lightning.ppo import actor
from detox_lightning.ppo import module as ppo_module
from detox_lightning.ppo.actor import Actor
from detox_lightning.ppo.learner import Learner
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import Reward
from detox_lightning.rollout import Responses, Scores
from numerics import FLOAT32
from toys import make_trainer, pairs_loader

EOS = 1
Parameters = dict[str, Tensor]


class Liking(Reward):
    """Likes some texts better than others, for no good reason."""

    name = "liking"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        return torch.tensor([sum(map(ord, text)) % 7 - 3.0 for text in responses])


class ByPlace(Reward):
    """Likes the first half of a batch."""

    name = "place"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        return (torch.arange(len(responses)) < len(responses) // 2).float()


@dataclass
class Watched:
    """What happened in one rollout."""

    responses: Responses
    scored: list[str] = field(default_factory=list)
    forwards: list[PolicyOutput] = field(default_factory=list)
    gradients: list[Parameters] = field(default_factory=list)
    orders: list[Tensor] = field(default_factory=list)
    before: Parameters = field(default_factory=dict)
    after: Parameters = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class WatchedActor(Actor):
    """Notes what happens; answers with ``given`` where there is something."""

    module: "WatchedPPO"

    def respond_to(self, prompts: PromptBatch, number: int) -> Responses:
        given = self.module.given
        responses = super().respond_to(prompts, number) if given is None else as_responses(given)
        self.module.watched.append(Watched(responses, before=self.module.copies()))
        return responses

    def scores_of(self, prompts: PromptBatch, responses: Responses, number: int) -> Scores:
        self.module.watched[-1].scored = responses.texts
        return super().scores_of(prompts, responses, number)


class WatchedPPO(PPOModule):
    """Notes what happens; answers with ``given`` where there is something."""

    given: list[list[int]] | None = None
    watched: list[Watched]

    def configure_model(self) -> None:
        if self.policy is None:
            torch.manual_seed(0)  # the same fresh adapter, whatever the seed of the noise
            super().configure_model()
            self.policy.register_forward_hook(self.note_forward)
            self.watched = []

    def on_train_start(self) -> None:
        super().on_train_start()
        self.actor = WatchedActor(**vars(self.actor))
        self.actor.module = self

    def orders(self, rollout: Rollout) -> Iterator[Tensor]:
        for order in super().orders(rollout):
            self.watched[-1].orders.append(order)
            yield order

    def note_forward(self, policy: Any, rows: Any, output: PolicyOutput) -> None:
        if torch.is_grad_enabled():
            self.watched[-1].forwards.append(PolicyOutput(*(x.detach() for x in output)))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        learning = {name for name, p in self.named_parameters() if p.grad is not None}
        gradients = self.copies(lambda p: p if p.grad is None else p.grad)
        self.watched[-1].gradients.append({name: gradients[name] for name in learning})

    def on_train_batch_end(self, *args: Any) -> None:
        self.watched[-1].after = self.copies()
        metrics = self.trainer.callback_metrics
        self.watched[-1].metrics = {name: float(value) for name, value in metrics.items()}

    def copies(self, what: Callable[[Tensor], Any] = lambda parameter: parameter) -> Parameters:
        named = self.named_parameters()
        return {name: what(p).detach().clone() for name, p in named if p.requires_grad}


def as_responses(rows: list[list[int]]) -> Responses:
    """Responses of these tokens, padded."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = mask_from_lengths(response_lengths(ids, [EOS]), width)
    return Responses(ids, mask, [" ".join(map(str, row)) for row in rows])


def make_module(policy: str, classifier: str, lr: float = 1e-2, **options: Any) -> WatchedPPO:
    """Two mini-batches of four in each of two passes."""
    defaults = {
        "reward": Liking(),
        "lora": LoRA(r=4, alpha=8, dropout=0.1),
        "sampling": Sampling(max_new_tokens=8),
        "ppo_epochs": 2,
        "mini_batch_size": 4,
        "optimizer": lambda params: torch.optim.Adam(params, lr=lr),
        "evaluation": EvaluationPlan(toxicity_model=classifier),
        "seed": 0,
    }
    return WatchedPPO(policy, **{**defaults, **options})


def fit(folder: Path, module: PPOModule, rollouts: int, **options: Any) -> Trainer:
    """Rollouts of eight responses, each an epoch."""
    ckpt_path = options.pop("ckpt_path", None)
    trainer = make_trainer(folder, max_epochs=rollouts, **options)
    trainer.fit(
        module,
        pairs_loader(8, side=module.source.family.padding_side),
        ckpt_path=ckpt_path,
        weights_only=True,
    )
    return trainer


def equal(ours: Parameters, other: Parameters) -> bool:
    """Bit for bit."""
    assert ours.keys() == other.keys()
    return all(torch.equal(ours[name], other[name]) for name in ours)


def close(ours: Parameters, other: Parameters) -> bool:
    """But for rounding in float32."""
    assert ours.keys() == other.keys()
    atol = FLOAT32 * max(float(x.abs().max()) for x in other.values())
    return all(torch.allclose(ours[name], other[name], rtol=0, atol=atol) for name in ours)


def listen(monkeypatch: Any, name: str) -> list[Any]:
    """Collects what ``measure``, ``to_experience`` or ``learn`` returns where a step calls it."""
    place: Any = {"measure": actor, "to_experience": ppo_module, "learn": Learner}[name]
    function, heard = getattr(place, name), []

    def heeded(*args: Any, **kwargs: Any) -> Any:
        heard.append(function(*args, **kwargs))
        return heard[-1]

    monkeypatch.setattr(place, name, heeded)
    return heard

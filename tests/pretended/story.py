"""The product on the pretended GPU, in a process of its own, which writes what was seen."""

import json
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detox_lightning import (
    ClassifierReward,
    DialogueDataModule,
    LabeledTextDataModule,
    LoRA,
    PPOModule,
    RewardModule,
    Sampling,
    SupervisedModule,
    Trainer,
)
from detox_lightning.models import policy as policy_file
from detox_lightning.models.decoding import cuda_graph, loop
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.ppo.learner import Learner
from detox_lightning.stages import supervised as supervised_file
from pretended.gpu import NAME, make_trainer, register
from pretended.watch import Watch
from toys import TEXTS


class Story:
    """Runs commands on the pretended GPU as on one of CUDA's.

    Attributes:
        captures: By command, the shapes of the decode steps that it captured.
        rollouts: The waits of each training step, those of its mini-batches included, by place.
        mini_batches: The waits of each mini-batch, by place.
    """

    def __init__(self, library: Path, folder: Path, policy: str, classifier: str):
        register(library)
        os.chdir(folder)
        self.watch, self.folder, self.policy = Watch(), folder, policy
        self.classifier = classifier
        self.captures: dict[str, list[str]] = {}
        self.rollouts: list[Counter[str]] = []
        self.mini_batches: list[Counter[str]] = []
        cuda_graph.capture = self.watch.capture
        policy_file.StaticSteps = partial(StaticSteps, capturing=True)
        supervised_file.StaticSteps = policy_file.StaticSteps
        loop.DROP_POLICIES[NAME] = loop.DROP_POLICIES["cuda"]
        Learner.gradient = self.counted(Learner.gradient, self.mini_batches)
        PPOModule.training_step = self.counted(PPOModule.training_step, self.rollouts)

    def counted(self, method: Callable[..., Any], found: list[Counter[str]]) -> Callable[..., Any]:
        """A method that appends its waits to a list."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.watch.waits.copy()
            result = method(*args, **kwargs)
            found.append(self.watch.waits - before)
            return result

        return call

    def data(self) -> DialogueDataModule:
        return DialogueDataModule(
            source=str(self.folder),
            min_chars=None,
            max_prompt_tokens=64,
            max_target_tokens=16,
            batch_size=8,
            eval_batch_size=4,
        )

    def ppo(self) -> PPOModule:
        return PPOModule(
            policy=self.policy,
            reward=ClassifierReward(self.classifier),
            lora=LoRA(r=4),
            sampling=Sampling(max_new_tokens=6),
            ppo_epochs=2,
            mini_batch_size=4,
            optimizer=partial(torch.optim.Adam, lr=1e-2),
            seed=0,
        )

    def trainer(self, **options: Any) -> Any:
        return make_trainer(Trainer, **options)

    def run(self, command: str, trainer: Any, module: Any, data: Any, **options: Any) -> Any:
        """Runs a command of the trainer, and notes which decode steps it captured."""
        before = len(self.watch.captures)
        with self.watch:
            result = getattr(trainer, command.split()[0])(module, data, **options)
        self.captures[command] = self.watch.captures[before:]
        return result

    def tell(self, path: Path, **more: Any) -> None:
        """Writes what was seen."""
        seen = {
            "captures": self.captures,
            "rollouts": self.rollouts,
            "mini_batches": self.mini_batches,
            **more,
        }
        path.write_text(json.dumps(seen))


def refusals(watch: Watch) -> list[str]:
    """What is said of three things that CUDA refuses, and how often four others wait."""

    def asks(x: torch.Tensor) -> list[torch.Tensor]:
        return [x * x.sum().item()]

    def sends(x: torch.Tensor) -> list[torch.Tensor]:
        return [x + torch.ones(3).to(x.device, non_blocking=True)]

    x = torch.ones(3, device=NAME)
    said = []
    captures = [partial(watch.capture, step, [x]) for step in (asks, sends)]
    for call in (lambda: x + torch.ones(3), *captures):
        try:
            with watch:
                call()
        except RuntimeError as error:
            said.append(str(error))
    before = watch.waits.total()
    for call in (lambda: asks(x), lambda: sends(x), lambda: x[x > 0], lambda: x.new_tensor([1])):
        with watch:
            call()
    return [*said, f"{watch.waits.total() - before} waits"]


def two_rollouts(told: Path, *place: Any) -> None:
    """PPO alone, and what the device refuses."""
    story = Story(*place)
    refused = refusals(story.watch)
    trainer = story.trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    story.run("fit", trainer, story.ppo(), story.data())
    story.tell(told, refused=refused)


def whole(told: Path, encoder: str, *place: Any) -> None:
    """Three stages, a resumed run, a test and predictions."""
    story = Story(*place)
    supervised = SupervisedModule(story.policy, LoRA(r=4), max_new_tokens=6)
    trainer = story.trainer(max_epochs=1, limit_train_batches=2)
    story.run("fit supervised", trainer, supervised, story.data())

    rows = [{"text": text, "label": ["nothate", "hate"][label]} for text, label in TEXTS]
    (story.folder / "labeled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = LabeledTextDataModule(
        str(story.folder / "labeled.jsonl"), test_split=None, max_tokens=32, batch_size=4
    )
    trainer = story.trainer(max_epochs=1, limit_train_batches=2)
    story.run("fit reward", trainer, RewardModule(encoder), texts)

    story.run("fit", story.trainer(max_epochs=1, limit_train_batches=2), story.ppo(), story.data())
    module, trainer = story.ppo(), story.trainer(max_epochs=2, limit_train_batches=2)
    story.run("fit resumed", trainer, module, story.data(), ckpt_path="last")
    rollouts = module.rollouts

    module = story.ppo()
    story.run("test", story.trainer(), module, story.data(), ckpt_path="last")
    predicted = story.run("predict", story.trainer(), module, story.data(), ckpt_path="last")
    rows = [row for batch in predicted for row in batch]
    story.tell(told, rollouts_done=rollouts, compared=len(module.comparison.rows()), predicted=rows)

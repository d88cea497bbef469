"""Our side: ``fit`` by the command line, one rollout for each order."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channel import Adapter, Channel, Effort, ScoredTokens

from detox_lightning.lazy_imports import deferred

with deferred():  # as the command itself does
    from lightning.pytorch import Callback

    from detox_lightning.cli.command import DetoxCLI

PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
TIMES = {part: f"time/{part}" for part in ("rollout", "score", "update", "total")}
FIGURES = {
    **TIMES,
    "response_tokens": "tokens/total",
    "policy_loss": "ppo/loss/policy",
    "value_loss": "ppo/loss/value",
    "kl": "objective/kl",
    "entropy": "objective/entropy",
}


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns a round's figures from the metrics of a rollout.

    Args:
        metrics: The trainer's metrics.
    """
    return {name: float(metrics[logged]) for name, logged in FIGURES.items()}


def config(job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for ``fit``.

    Args:
        job: See ``benchmarks/peer.py``; ``data`` may hold more options of the data module.
    """
    folder, tokens = job["folder"], job["new_tokens"]
    reward = {"model": f"{folder}/classifier", "label": "nothate", "include_prompt": True}
    model = {
        "policy": f"{folder}/policy",
        "weights": {"dtype": job["dtype"]},
        "reward": {"class_path": "ClassifierReward", "init_args": reward},
        "lora": {"r": 16, "alpha": 16, "dropout": 0.05, "target_modules": ["q", "v"]},
        "sampling": {"max_new_tokens": tokens, "min_new_tokens": tokens},
        "ppo_epochs": job["ppo_epochs"],
        "mini_batch_size": job["mini_batch_size"],
        "micro_batch_size": job.get("micro_batch_size"),
        # the rate of theirs.py, as both shall take the same steps
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.41e-5}},
    }
    data = {
        "source": f"{folder}/prompts.jsonl",
        "template": "{dialogue}",
        "min_chars": None,
        "max_chars": None,
        "validation_split": None,
        "test_split": None,
        "batch_size": job["batch_size"],
        **job.get("data", {}),
    }
    trainer = {
        "accelerator": job["device"],
        "devices": 1,
        "precision": PRECISION[job["dtype"]],
        "max_epochs": 1,
        "limit_train_batches": job["rounds"],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": f"{folder}/runs"}},
    }
    return {
        "threads": job["threads"],
        "model": {"class_path": "PPOModule", "init_args": model},
        "data": {"class_path": "DialogueDataModule", "init_args": data},
        "trainer": trainer,
    }


class Rounds(Callback):
    """Waits before each batch; a round ends when Lightning is ready for the next one."""

    def __init__(self, channel: Channel, device: str) -> None:
        """Takes the channel and the device.

        Args:
            channel: Connection to the driver.
            device: ``cpu`` or ``cuda``.
        """
        self.channel = channel
        self.device = device
        self.effort: Effort | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Answers that the models are open."""
        self.adapter = Adapter(module.policy)
        self.scored = ScoredTokens(module.reward.classifier.model)
        self.parameters = sum(p.numel() for p in module.policy.parameters())
        self.channel.answer()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, place: int) -> None:
        """Ends a round, waits for an order, and begins the next round."""
        self.end(trainer, module)
        self.channel.wait()
        self.prompt_tokens = int(batch.prompt_mask.sum())
        self.effort = Effort(self.device)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Ends the last round."""
        self.end(trainer, module)

    def end(self, trainer: Any, module: Any) -> None:
        """Answers with the round's figures."""
        if self.effort is None:
            return
        self.channel.answer(
            **self.effort.spent(),
            **figures(trainer.callback_metrics),
            parameters=self.parameters,
            prompt_tokens=self.prompt_tokens,
            scored_tokens=self.scored.taken(),
            moved=self.adapter.moved(),
            prompts=module.samples.prompts,
        )


def train(job: Mapping[str, Any], channel: Channel) -> None:
    """Trains, as ``python -m detox_lightning fit`` does.

    Args:
        job: See ``benchmarks/peer.py``.
        channel: Connection to the driver.
    """
    file = Path(job["folder"]) / "ours.yaml"
    file.write_text(json.dumps(config(job)))
    rounds = Rounds(channel, job["device"])
    DetoxCLI(["fit", f"--config={file}"], callbacks=[rounds])


if __name__ == "__main__":
    train(json.loads(sys.argv[1]), Channel())

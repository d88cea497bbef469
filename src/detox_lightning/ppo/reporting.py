"""What a rollout reports: its curves, and its texts for people to read."""

import math
from typing import NamedTuple

import torch

from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.protocols import Samples
from detox_lightning.rollout import Responses

OF_VALUES = ("ppo/val/", "ppo/returns/", "ppo/loss/value")  # curves that need a value head
PROGRESS_BAR = {"kl": "objective/kl", "score": "objective/scores_mean", "rollouts": "step"}


class Curves:
    """The figures that every rollout logs, also one that was left out.

    Args:
        has_values: Whether a value head learns.
    """

    def __init__(self, has_values: bool):
        self.has_values = has_values
        self.names: list[str] = []

    def complete(
        self, metrics: dict[str, float], learning_rate: float, faults: int, rollouts: int
    ) -> dict[str, float]:
        """Adds the figures of every rollout, and NaN for those that this one lacks.

        Without NaN, Lightning would log the figures of the rollout before once more.

        Args:
            metrics: Figures of the rollout; empty if it was left out.
            learning_rate: That of its update.
            faults: Rollouts of which something was left out so far.
            rollouts: Rollouts done, this one included: the x-axis.
        """
        if not self.has_values:
            metrics = {name: x for name, x in metrics.items() if not name.startswith(OF_VALUES)}
        metrics = {**dict.fromkeys(self.names, math.nan), **metrics}
        self.names = list(metrics)
        metrics["ppo/learning_rate"] = learning_rate
        metrics["ppo/faults"] = float(faults)
        metrics["step"] = float(rollouts)
        return metrics


class NewestRollout(NamedTuple):
    """The newest rollout; its texts are put together only when somebody wants to read them."""

    prompts: PromptBatch
    responses: Responses
    rollout: Rollout

    def samples(self) -> Samples:
        """Puts the texts together with their figures; waits for the device."""
        rollout = self.rollout
        return Samples(
            self.prompts.prompts,
            self.responses.texts,
            rollout.scores.tolist(),
            rollout.response_mask.sum(dim=1).tolist(),
            torch.where(rollout.response_mask, rollout.kl, 0).sum(dim=1).tolist(),
        )

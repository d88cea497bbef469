"""What a rollout reports: its curves, and its texts for people to read."""

import math
from typing import NamedTuple

import torch

from detox_lightning.algorithm.masks import Reduce
from detox_lightning.algorithm.metrics import UpdateMeter, rollout_metrics
from detox_lightning.algorithm.types import Experience, Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.rollout import Responses, Samples, Scores

OF_VALUES = ("ppo/val/", "ppo/returns/", "ppo/loss/value")  # curves that need a value head
PROGRESS_BAR = {"kl": "objective/kl", "score": "objective/scores_mean"}


def rollout_report(
    rollout: Rollout,
    experience: Experience,
    scores: Scores,
    update: UpdateMeter,
    kl_coef: float,
    reduce: Reduce,
) -> dict[str, float]:
    """Figures of a rollout and its update over all ranks; one collective.

    Args:
        rollout: ``b`` responses.
        experience: The same responses with their advantages and returns.
        scores: Their scores.
        update: What the mini-batches reported.
        kl_coef: The coefficient of the KL penalty in this rollout.
        reduce: Sum over ranks.
    """
    metrics = rollout_metrics(rollout, experience, scores.parts, kl_coef, reduce)
    return metrics | update.metrics(metrics["ppo/returns/var"])


def without_values(metrics: dict[str, float]) -> dict[str, float]:
    """Leaves out the figures that only a value head gives a meaning."""
    return {name: x for name, x in metrics.items() if not name.startswith(OF_VALUES)}


def progress_bar(metrics: dict[str, float]) -> dict[str, float]:
    """The figures that stand in the progress bar, by their short names."""
    return {short: metrics[name] for short, name in PROGRESS_BAR.items() if name in metrics}


class Curves:
    """Remembers which figures were logged, for rollouts that have none."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def complete(self, metrics: dict[str, float]) -> dict[str, float]:
        """Adds NaN for figures that the rollout lacks; else Lightning would log the former ones.

        Args:
            metrics: Of the rollout; empty if it was left out.
        """
        metrics = {**dict.fromkeys(self.names, math.nan), **metrics}
        self.names = list(metrics)
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

"""What is not finite while training: left out, counted within a bound, kept to be looked at."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import TrainingError
from detox_lightning.rollout import Responses, what_is_not_finite
from detox_lightning.stages.optimization import trainable_parameters

if TYPE_CHECKING:
    from detox_lightning.ppo.module import PPOModule

CAUSES = (
    "Likely causes: too high a learning rate (model.optimizer.lr), no gradient clipping "
    "({clipping}), {stage}or half precision"
)
OF_PPO = CAUSES.format(
    clipping="model.max_grad_norm",
    stage="scores far from 0 (model.scores.scale, model.scores.clip), ",
)
LOOK = "Look at the reward, at the rollout's texts and, in half precision, at model.weights.dtype"
OF_OTHERS = CAUSES.format(clipping="trainer.gradient_clip_val", stage="")


class Fault(NamedTuple):
    """Something that went wrong, and the batch with which it did.

    Attributes:
        place: Where in the run: ``rollout 17``.
        what: What was seen: ``the loss is nan``.
        tensors: By name, each ``[m, …]``.
        texts: By name, each ``m`` texts.
    """

    place: str
    what: str
    tensors: dict[str, Tensor]
    texts: dict[str, list[str]]


class Faults:
    """The faults of a run.

    Attributes:
        count: Rollouts or steps of which something was left out so far.
        kept: What is to be written to the disk.
    """

    def __init__(self, bound: int):
        """Nothing has gone wrong yet.

        Args:
            bound: How many rollouts or steps something may be left out of.
        """
        self.bound = bound
        self.count = 0
        self.kept: list[Fault] = []
        self.batches: list[Fault] = []
        self.last = ""  # where something was left out last

    def begin(self, place: str, texts: Mapping[str, list[str]], **tensors: Tensor) -> None:
        """Says what is being worked on; at the same place, what else.

        Args:
            place: Where in the run.
            texts: By name, ``b`` each.
            tensors: By name, each ``[b, …]``.
        """
        others = [batch for batch in self.batches if batch.place == place]
        self.batches = [*others, Fault(place, "", tensors, dict(texts))]

    def add(self, **tensors: Tensor) -> None:
        """Says what else is known by now of what is being worked on; see :meth:`begin`."""
        self.batches[-1].tensors.update(tensors)

    def keep(self, what: str, rows: Tensor | None = None) -> None:
        """Keeps what is being worked on.

        Args:
            what: What was seen.
            rows: ``[m]`` those that it was seen with, on the CPU; None: all.
        """
        for place, _, tensors, texts in self.batches:
            if rows is not None:
                tensors = {name: x[rows.to(x.device)] for name, x in tensors.items()}
                texts = {name: [xs[row] for row in rows.tolist()] for name, xs in texts.items()}
            # copies: what shares memory can't be written
            tensors = {name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}
            self.kept.append(Fault(place, what, tensors, dict(texts)))

    def leave_out(
        self, what: str, advice: str, rows: Tensor | None = None, is_here: bool = True
    ) -> None:
        """Counts that something is left out, in all processes at once; once a rollout or step.

        Args:
            what: What was seen.
            advice: What usually helps.
            rows: ``[m]`` those that it was seen with, on the CPU; None: all.
            is_here: Whether it was seen in this process; if not, nothing is kept.

        Raises:
            TrainingError: If there were too many.
        """
        place = self.batches[-1].place
        if place == self.last:
            return
        self.last = place
        self.count += 1
        if is_here:
            self.keep(what, rows)
        if self.count > self.bound:
            error = TrainingError(
                f"{place}: {what}. {advice}. This is fault {self.count} of the run, and "
                f"model.max_faults={self.bound}. Checkpoints are untouched: go on from one with "
                "--ckpt_path"
            )
            error.by_all = True
            raise error

    def guard(self, module: LightningModule, optimizer: Any) -> None:
        """Leaves out a step of Lightning's own loop whose gradient is not finite.

        Args:
            module: Whose step it is.
            optimizer: Its parameters without a gradient stay as they are.

        Raises:
            TrainingError: If there were too many.
        """
        gradients = [p.grad for p in trainable_parameters(module) if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            optimizer.zero_grad()
            self.leave_out(f"the gradient's norm is {norm}", OF_OTHERS)


def begin_rollout(module: "PPOModule", batch: PromptBatch, responses: Responses) -> None:
    """Tells what a rollout is made of, in case that something goes wrong with it.

    Args:
        module: Has the faults.
        batch: ``b`` prompts.
        responses: Their responses.
    """
    texts = {"prompts": batch.prompts, "references": batch.references}
    ids = {"prompt_ids": batch.prompt_ids, "response_ids": responses.ids}
    masks = {"prompt_mask": batch.prompt_mask, "response_mask": responses.mask}
    module.faults.begin(module.place, {**texts, "responses": responses.texts}, **ids, **masks)


def is_sound(module: "PPOModule", rollout: Rollout, parts: dict[str, Tensor]) -> bool:
    """Whether all figures of a rollout are finite, on all ranks; else it is left out.

    Args:
        module: Has the faults.
        rollout: ``b`` responses.
        parts: What the scores are made of, each ``[b]``, by name.

    Raises:
        TrainingError: If too many were left out.
    """
    named = {f"scores.{name}": part for name, part in parts.items()}
    module.faults.add(**rollout._asdict(), **named)
    texts = module.faults.batches[-1].texts["responses"]
    what = what_is_not_finite(rollout, parts, module.reward.name, texts)
    unsound = module.sum(torch.tensor(float(what is not None), device=module.device)).item()
    if unsound:
        elsewhere = "figures of another process are not finite"
        module.faults.leave_out(what or elsewhere, LOOK, is_here=what is not None)
    return not unsound

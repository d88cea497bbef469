"""Leaves out, counts and records training batches whose numbers are not finite."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from detox_lightning.errors import TrainingError

_CAUSES = (
    "Likely causes: too high a learning rate (model.optimizer.lr), no gradient clipping "
    "({}), {}or half precision"
)
CAUSES_IN_PPO = _CAUSES.format(
    "model.max_grad_norm", "scores far from 0 (model.scores.scale, model.scores.clip), "
)
CAUSES_ELSEWHERE = _CAUSES.format("trainer.gradient_clip_val", "")
LOOK_AT_ROLLOUT = (
    "Look at the reward, at the rollout's texts and, in half precision, at model.weights.dtype"
)


class Fault(NamedTuple):
    """A number that was not finite, and the batch in which it appeared.

    Attributes:
        place: Where in the run: ``rollout 17``.
        what: What was seen: ``the loss is nan``.
        tensors: ``[m, …]`` each, by name.
        texts: ``m`` texts each, by name.
    """

    place: str
    what: str
    tensors: dict[str, Tensor]
    texts: dict[str, list[str]]


class Faults:
    """Counts and records what a run leaves out because it is not finite.

    Attributes:
        count: Rollouts or steps of which something was left out so far; the same on every rank.
        kept: Faults that a callback is to write to the disk.

    Args:
        bound: How many rollouts or steps may be left out, in whole or in part.
    """

    def __init__(self, bound: int):
        self.bound = bound
        self.count = 0
        self.kept: list[Fault] = []
        self.batches: list[Fault] = []
        self.last_place = ""  # of the newest fault

    def begin(self, place: str, texts: Mapping[str, list[str]], **tensors: Tensor) -> None:
        """Registers the current batch: ``b`` texts by name, and tensors ``[b, …]`` by name.

        A second call for the same place in the run adds a batch to it.
        """
        others = [batch for batch in self.batches if batch.place == place]
        self.batches = [*others, Fault(place, "", tensors, dict(texts))]

    def add(self, **tensors: Tensor) -> None:
        """Adds tensors to the current batch, ``[b, …]`` each, by name."""
        self.batches[-1].tensors.update(tensors)

    def record(self, what: str, rows: Tensor | None = None) -> None:
        """Keeps the current batches for the disk, or their rows ``[m]``, given on the CPU."""
        for place, _, tensors, texts in self.batches:
            if rows is not None:
                tensors = {name: x[rows.to(x.device)] for name, x in tensors.items()}
                texts = {name: [xs[row] for row in rows.tolist()] for name, xs in texts.items()}
            # copies, as safetensors writes no tensors that share memory
            tensors = {name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}
            self.kept.append(Fault(place, what, tensors, dict(texts)))

    def leave_out(
        self, what: str, advice: str, rows: Tensor | None = None, is_here: bool = True
    ) -> None:
        """Counts a rollout or step of which something is left out, on all ranks at once.

        Args:
            what: What was seen.
            advice: What usually helps.
            rows: ``[m]`` the rows that had it, on the CPU; None: all.
            is_here: Whether it was seen on this rank; if not, nothing is recorded.

        Raises:
            TrainingError: If there are more faults than the bound.
        """
        place = self.batches[-1].place
        if place == self.last_place:
            return
        self.last_place = place
        self.count += 1
        if is_here:
            self.record(what, rows)
        if self.count > self.bound:
            error = TrainingError(
                f"{place}: {what}. {advice}. This is fault {self.count} of the run, and "
                f"model.max_faults={self.bound}. Checkpoints are untouched: go on from one with "
                "--ckpt_path"
            )
            error.by_all = True
            raise error

"""Whether a reward is being gamed: it goes on improving, and what it stands for doesn't."""

from typing import NamedTuple

from torch import Tensor

SURE = 3.0  # standard errors of a mean over prompts
IN_A_ROW = 2  # validations that must show a sign before it counts, or ends
Figures = dict[str, Tensor]


class Suspicion(NamedTuple):
    """What may suffer while the score rises.

    Attributes:
        names: The figures that tell, that of the judge last.
        is_falling: Whether the judge's figure should be low.
        observation: What is observed, with placeholders for each figure, then and now.
    """

    names: tuple[str, ...]
    is_falling: bool
    observation: str

    def loss(self, then: Figures, now: Figures) -> Tensor:
        """Returns ``[n]``: by how much the judge's figure got worse, or fell behind the first's."""
        change = {name: now[name] - then[name] for name in self.names}
        if not self.is_falling:
            return -change[self.names[-1]]
        return change["second_toxicity"] - change["toxicity"]


SUSPICIONS = (
    Suspicion(
        ("score", "toxicity", "second_toxicity"),
        True,
        "the score rose from {:.3f} to {:.3f}, the toxicity by the first classifier went from "
        "{:.3f} to {:.3f}, by the second from {:.3f} to {:.3f}",
    ),
    Suspicion(
        ("score", "similarity_prompt"),
        False,
        "the score rose from {:.3f} to {:.3f}, the similarity to the prompt fell from {:.3f} to "
        "{:.3f}",
    ),
)


class Watch:
    """Compares each validation with the one whose judge was the most content so far.

    All validations have the same prompts and the same noise, so prompts are compared one by one.
    The sign is seen if the score has improved since then, and the judge's figure has fallen behind
    that of the first classifier (similarity: has fallen) by more than a margin, both by ``SURE``
    standard errors.

    Attributes:
        rollout: Rollouts done when the judge was the most content.
        best: The figures of that validation, each ``[n]``.
    """

    def __init__(self, suspicion: Suspicion):
        self.suspicion = suspicion
        self.rollout = 0
        self.best: Figures = {}

    def is_seen(self, figures: Figures, rollout: int, margin: float) -> bool:
        """Whether a validation, after so many rollouts, shows that the reward is being gamed."""
        sign, judge = (1 if self.suspicion.is_falling else -1), self.suspicion.names[-1]
        then, now = (sign * side[judge] for side in (self.best or figures, figures))
        # a mean that is NaN is neither kept nor compared
        if not self.best or len(then) != len(now) or not now.mean() >= then.mean():
            self.best, self.rollout = {x: figures[x] for x in self.suspicion.names}, rollout
            return False
        gain, loss = figures["score"] - self.best["score"], self.suspicion.loss(self.best, figures)
        return _is_above(gain, 0) and _is_above(loss, margin)

    def describe(self, figures: Figures) -> str:
        """Returns what has changed since the judge was the most content."""
        sides = self.best, figures
        means = [float(side[name].mean()) for name in self.suspicion.names for side in sides]
        return f"since rollout {self.rollout}, {self.suspicion.observation.format(*means)}"


def _is_above(differences: Tensor, margin: float) -> bool:
    """Whether the mean of ``[n]`` differences is above a margin by ``SURE`` standard errors."""
    error = differences.std() / len(differences) ** 0.5  # NaN for a single one
    return bool(differences.mean() - SURE * error > margin)

"""Several rewards at once."""

from collections import Counter
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError
from detox_lightning.rewards.function_reward import RewardFunction, as_reward
from detox_lightning.rewards.interface import PREFIXES, Reward


class WeightedReward(Reward):
    """A weighted sum of rewards, or the lowest of them.

    A negative weight is for a term that should be small, such as the value of a toxicity regressor;
    with weight 0 a term is only logged. Each term is logged by its own name, before it is weighted.

    Args:
        rewards: The terms, rewards or plain functions, with different names; none may be a
            weighted sum.
        weights: The factor of each term, in the same order; null: 1.
        combine: ``sum`` adds the terms up; ``min`` takes the lowest of those whose weight isn't 0.
            The lowest of several classifiers is harder to game, as all of them must be content.

    Raises:
        InputError: If there are no rewards, if the number of weights differs, if two rewards
            have the same name, if one is a weighted sum, or if the lowest is asked of nothing or
            of scores of tokens.
    """

    name = "weighted"

    def __init__(
        self,
        rewards: list[Reward | RewardFunction],
        weights: list[float] | None = None,
        combine: Literal["sum", "min"] = "sum",
    ):
        super().__init__()
        parts = [as_reward(reward) for reward in rewards]
        weights = [1.0] * len(rewards) if weights is None else weights
        if not rewards:
            raise InputError("reward.rewards=[]: name at least one reward")
        if len(weights) != len(rewards):
            raise InputError(
                f"reward.weights={weights}: {len(weights)} for {len(rewards)} rewards; give one "
                "for each, or none at all"
            )
        if any(isinstance(reward, WeightedReward) for reward in parts):
            raise InputError(
                "reward.rewards: one of them is a WeightedReward; name its rewards here instead, "
                "and multiply their weights with its own"
            )
        (name, count), *_ = Counter(reward.name for reward in parts).most_common()
        if count > 1:
            raise InputError(
                f"reward.rewards: {count} of them are named {name!r}; give each a name of its own, "
                "a ClassifierReward or FunctionReward by its option name"
            )
        self.rewards = nn.ModuleList(parts)
        self.weights, self.combine = weights, combine
        self.columns = tuple(dict.fromkeys(name for part in parts for name in part.columns))
        self.telescopes = all(part.telescopes for part in parts if PREFIXES in part.columns)
        if combine == "min" and not any(weights):
            raise InputError(
                f"reward.weights={weights}, combine=min: there is nothing to take the lowest of; "
                "give one that isn't 0"
            )
        if combine == "min" and PREFIXES in self.columns:
            raise InputError(
                "reward.combine=min: a reward of tokens is among them, and the lowest score of a "
                "token isn't that of a response; give rewards of responses, or combine=sum"
            )

    @property
    def weighted(self) -> list[tuple[float, Reward]]:
        """Pairs of weight and reward."""
        return list(zip(self.weights, cast("list[Reward]", self.rewards), strict=True))

    def describe(self) -> str:
        """Returns the formula, for reports."""
        if self.combine == "min":
            terms = [f"{weight:g} × ({reward.describe()})" for weight, reward in self.weighted]
            return f"the lowest of {', '.join(terms)}"
        terms = [
            f"{'-' if weight < 0 else '+'} {abs(weight):g} × ({reward.describe()})"
            for weight, reward in self.weighted
        ]
        return " ".join(terms).removeprefix("+ ")

    def load(self) -> None:
        """Opens each reward."""
        for _, reward in self.weighted:
            reward.load()

    def parts(
        self, prompts: list[str], responses: list[str], references: list[str], **columns: list[Any]
    ) -> dict[str, Tensor]:
        """Returns the scores of each reward by its name; see :meth:`Reward.parts`."""
        texts = prompts, responses, references
        return {  # each gets its own lists, which it may change
            reward.name: reward(
                *map(list, texts),
                **{name: [*columns[name]] for name in reward.columns if name in columns},
            )
            for _, reward in self.weighted
        }

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Returns the ``[b]`` float32 weighted sum (or lowest), on the device of the first term.

        It is ``[b, t]`` for terms ``[b, t]``.
        """
        device = parts[self.weighted[0][1].name].device
        terms = [weight * parts[reward.name].float().to(device) for weight, reward in self.weighted]
        if self.combine == "min":
            return torch.stack([x for x, y in zip(terms, self.weights, strict=True) if y]).amin(0)
        return torch.stack(terms).sum(dim=0)

    def forward(
        self, prompts: list[str], responses: list[str], references: list[str], **columns: list[Any]
    ) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        return self.total(self.parts(prompts, responses, references, **columns))

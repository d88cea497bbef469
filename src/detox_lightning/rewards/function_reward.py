"""A plain function as a reward."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.rewards.interface import PREFIXES, Reward

TEXTS = ("prompts", "responses", "references")
RewardFunction = Callable[..., Any]


class FunctionReward(Reward):
    """The scores that a plain function gives to responses.

    Args:
        function: Its arguments name what it gets: ``prompts``, ``responses``, ``references``,
            columns of the data, each a list of ``b``. Those with a default keep it. It returns
            ``b`` numbers, a list or a tensor. If it takes ``prefixes``, for each response the texts
            of its first 1, 2, … tokens, it may return a list of numbers for each response instead,
            one for each token.
        name: Name in the log; null: the function's.

    Raises:
        InputError: If the function takes nothing by name.
    """

    def __init__(self, function: RewardFunction, name: str | None = None):
        super().__init__()
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__).strip("<>")
        arguments = inspect.signature(function).parameters.values()
        needed = (x for x in arguments if x.default is x.empty)
        taken = [x.name for x in needed if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
        if not taken:
            raise InputError(
                f"model.reward: the function {self.name} has no argument that it needs; name one "
                f"or several of {', '.join(TEXTS)} and columns of the data"
            )
        self.texts = [name for name in taken if name in TEXTS]
        self.columns = tuple(name for name in taken if name not in TEXTS)

    def forward(
        self, prompts: list[str], responses: list[str], references: list[str], **columns: list[Any]
    ) -> Tensor:
        """Calls the function; see :meth:`Reward.forward`."""
        texts = dict(zip(TEXTS, (prompts, responses, references), strict=True))
        scores: Any = self.function(**{name: texts[name] for name in self.texts}, **columns)
        scores = _padded(scores, columns.get(PREFIXES, []))
        try:
            return torch.as_tensor(scores, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):  # whoever called says what it is instead
            return scores


def _padded(scores: Any, prefixes: list[list[str]]) -> Any:
    """Fills up lists of token scores with 0, if there is one for each token of each response."""
    if not (isinstance(scores, list) and all(isinstance(row, list) for row in scores)):
        return scores
    if [*map(len, scores)] != [*map(len, prefixes)]:
        return scores
    longest = max(map(len, scores), default=0)
    return [[*row, *[0.0] * (longest - len(row))] for row in scores]


def as_reward(given: Any) -> Reward:
    """Returns a reward, or the reward that a function is; InputError if it is neither."""
    if isinstance(given, Reward):
        return given
    if isinstance(given, type) or not callable(given):
        raise InputError(
            f"model.reward: {given!r} is neither a reward, such as LengthReward(1, 9), nor a "
            "function of responses; give one of them"
        )
    return FunctionReward(given)

"""A reward of whole texts, told token by token."""

from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.rewards.function_reward import RewardFunction, as_reward
from detox_lightning.rewards.interface import PREFIXES, Reward


class PrefixReward(Reward):
    """Gives each token what it changes in a reward R: R(text with it) - R(text before it).

    The last token gets R of the empty text, too, so that a response's token scores add up to R of
    it. This is potential-based shaping (Ng, Harada and Russell, 1999): the optimum stays as it is,
    and for GAE with ``gamma`` 1 it is as if the value head began with R(text before the token)
    added to it (https://arxiv.org/abs/1106.5267). Another ``gamma`` is refused: discounted, the
    scores don't add up to R, and a good beginning would be paid for itself. ``TokenRLOO`` uses it
    without a value head. RLOO, GRPO and Reinforce add token scores up, so to them it makes no
    difference. R reads about as many texts a response as it has tokens.

    Args:
        reward: The reward of texts: a reward or a function.
        every: Score the text after every so many tokens, and at its end; in between, the last token
            of each such piece gets the change that the piece makes. 1 costs most.

    Raises:
        InputError: If the reward scores tokens itself.
    """

    telescopes = True

    def __init__(self, reward: Reward | RewardFunction, every: PositiveInt = 1):
        super().__init__()
        self.reward, self.every = as_reward(reward), every
        self.name = self.reward.name
        if PREFIXES in self.reward.columns:
            raise InputError(
                f"reward.reward: {self.name!r} scores tokens itself; name a reward of whole texts, "
                "or use this one without PrefixReward"
            )
        self.columns = (PREFIXES, *self.reward.columns)

    def describe(self) -> str:
        """Returns one line for reports."""
        pace = "each token" if self.every == 1 else f"every {self.every} tokens"
        return f"{self.reward.describe()}, told after {pace}"

    def load(self) -> None:
        """Opens the reward."""
        self.reward.load()

    def forward(
        self,
        prompts: list[str],
        responses: list[str],
        references: list[str],
        prefixes: list[list[str]] | None = None,
        **columns: list[Any],
    ) -> Tensor:
        """Scores tokens, or without ``prefixes`` responses; see :meth:`Reward.forward`."""
        if prefixes is None:
            whole: Tensor = self.reward(prompts, responses, references, **columns)
            return whole
        steps = [step for row in range(len(prefixes)) for step in self._steps(row, prefixes[row])]
        # equal texts are scored once, those of different rows only if no column tells them apart
        asked = [(prompts[r], text, references[r], r if columns else 0) for r, _, text in steps]
        distinct = {key: number for number, key in enumerate(dict.fromkeys(asked))}
        scores: Any = self.reward(
            *([key[place] for key in distinct] for place in range(3)),
            **{name: [values[key[3]] for key in distinct] for name, values in columns.items()},
        )
        shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if shape != [len(distinct)]:
            raise ValueError(
                f"it gave {shape} for {len(distinct)} texts, the beginnings of responses"
            )
        reached = scores[torch.tensor([distinct[key] for key in asked], device=scores.device)]
        rows, tokens = torch.tensor([step[:2] for step in steps], device=scores.device).T
        begins = rows.diff(prepend=rows[:1] - 1) != 0
        gained = torch.where(begins, reached, reached - reached.roll(1))
        longest = max(map(len, prefixes))
        empty = scores.new_zeros(len(prefixes), longest)
        return empty.index_put((rows, tokens), gained, accumulate=True)

    def _steps(self, row: int, texts: list[str]) -> list[tuple[int, int, str]]:
        """Lists row, token and text of all that is scored: nothing yet, for the last token, first.

        ``texts`` are the row's prefixes, at least one.
        """
        last = len(texts) - 1
        ends = [*range(self.every - 1, last, self.every), last]
        return [(row, last, ""), *((row, end, texts[end]) for end in ends)]

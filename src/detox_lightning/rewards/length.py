"""Reward for the right length."""

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.words import count_words


class LengthReward(Reward):
    """0 for a response of ``low`` to ``high`` words, minus 1 for each word too few or too many.

    Meant as a part of a :class:`WeightedReward`, whose weight is the price of a word. A response
    that the length limit cut off may have any length: ``scores.missing_eos_penalty`` of
    ``PPOModule`` charges for that.

    Args:
        low: Fewest words without a penalty.
        high: Most words without a penalty. Words are separated by blanks; of scripts without
            blanks, such as Chinese, Japanese or Thai, each character is a word.

    Raises:
        InputError: If no number is in the range.
    """

    name = "length"

    def __init__(self, low: NonNegativeInt, high: PositiveInt):
        super().__init__()
        if low > high:
            raise InputError(f"reward.low={low} is above reward.high={high}: change one of them")
        self.low = low
        self.high = high

    def describe(self) -> str:
        """Returns one line for reports."""
        return f"minus the words short of {self.low} or beyond {self.high}"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        words = torch.tensor([count_words(text) for text in responses], dtype=torch.float32)
        return words.clamp(self.low, self.high).sub(words).abs().neg()

"""What a length is worth, by hand."""

import pytest
import torch

from detox_lightning.errors import InputError
from detox_lightning.rewards import LengthReward

TEXTS = ["", "one", "one two", "one  two\nthree ", "1 2 3 4", "1 2 3 4 5 6 7"]
WORDS = [0, 1, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2, 4, [-2, -1, 0, 0, 0, -3]),
        (3, 3, [-3, -2, -1, 0, -1, -4]),
        (0, 100, [0, 0, 0, 0, 0, 0]),
        (10, 20, [-10, -9, -8, -7, -6, -3]),
    ],
)
def test_words_outside_the_range(low: int, high: int, expected: list[float]) -> None:
    scores = LengthReward(low, high)(TEXTS, TEXTS, TEXTS)
    assert (scores.dtype, scores.tolist()) == (torch.float32, expected)


def test_only_the_response_counts() -> None:
    long, none = ["a b c d e f"], [""]
    assert LengthReward(1, 2)(long, ["a"], long).item() == 0
    assert LengthReward(1, 2)(none, long, none).item() == -4


def test_no_responses() -> None:
    assert LengthReward(1, 2)([], [], []).shape == (0,)


def test_a_range_of_nothing() -> None:
    with pytest.raises(InputError, match=r"^reward.low=5 is above reward.high=4: change one"):
        LengthReward(5, 4)


def test_its_name_and_what_it_says_of_itself() -> None:
    reward = LengthReward(5, 20)
    assert reward.name == "length"
    assert reward.describe() == "minus the words short of 5 or beyond 20"

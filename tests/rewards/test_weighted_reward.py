"""Several rewards at once, by hand."""

import copy

import pytest
import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.rewards import (
    ClassifierReward,
    LengthReward,
    PrefixReward,
    Reward,
    WeightedReward,
)
from detox_lightning.rewards.measures import with_measure

PROMPTS, RESPONSES, REFERENCES = ["p", "pp"], ["one two", "a b c d"], ["x x x", "y"]
ASKED = PROMPTS, RESPONSES, REFERENCES


class Count(Reward):
    """How many letters one of the three texts has."""

    def __init__(self, name: str, which: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.name, self.which, self.dtype, self.loaded, self.asked = name, which, dtype, 0, 0

    def load(self) -> None:
        self.loaded += 1

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        self.asked += 1
        texts = (prompts, responses, references)[self.which]
        return torch.tensor([len(text) for text in texts], dtype=self.dtype)


def three(dtype: torch.dtype = torch.float32) -> list[Reward]:
    """They say 1, 2; 7, 7; and 5, 1."""
    return [Count(name, i, dtype) for i, name in enumerate(["prompt", "response", "reference"])]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0, 1.0, 1.0], [13.0, 10.0]),
        (None, [13.0, 10.0]),
        ([2.0, -1.0, 0.5], [2 - 7 + 2.5, 4 - 7 + 0.5]),
        ([0.0, 0.0, -1.0], [-5.0, -1.0]),
    ],
)
def test_the_weighted_sum(weights: list[float] | None, expected: list[float]) -> None:
    assert WeightedReward(three(), weights)(*ASKED).tolist() == expected


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [1.0, 1.0]),
        ([0.0, 1.0, 3.0], [7.0, 3.0]),  # 7, 7; 15, 3
        ([-1.0, -2.0, 0.0], [-14.0, -14.0]),
    ],
)
def test_the_lowest(weights: list[float] | None, expected: list[float]) -> None:
    reward = WeightedReward(three(), weights, combine="min")
    assert reward(*ASKED).tolist() == expected
    assert with_measure(reward, "rougeL")(*ASKED).tolist() == expected  # it is only measured


def test_the_lowest_says_so() -> None:
    reward = WeightedReward([LengthReward(1, 2), Count("other", 0)], [1, -0.5], combine="min")
    assert reward.describe() == (
        "the lowest of 1 × (minus the words short of 1 or beyond 2), -0.5 × (Count (other))"
    )


def test_there_is_no_lowest_of_nothing_or_of_tokens() -> None:
    with pytest.raises(InputError, match="combine=min: there is nothing to take the lowest of"):
        WeightedReward([LengthReward(1, 2)], [0.0], combine="min")
    with pytest.raises(InputError, match=r"combine=min: a reward of tokens is among them"):
        WeightedReward([PrefixReward(LengthReward(1, 2))], combine="min")


def test_the_parts_are_raw_and_amount_to_the_total() -> None:
    reward = WeightedReward(three(), [2.0, -1.0, 0.5])
    parts = reward.parts(*ASKED)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "prompt": [1, 2],
        "response": [7, 7],
        "reference": [5, 1],
    }
    assert reward.total(parts).tolist() == [-2.5, -2.5]
    assert [part.asked for _, part in reward.weighted] == [1, 1, 1]


def test_a_single_reward_is_its_own_part() -> None:
    length = LengthReward(3, 3)
    parts = length.parts(*ASKED)
    assert {name: part.tolist() for name, part in parts.items()} == {"length": [-1.0, -1.0]}
    assert length.total(parts) is parts["length"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16])
def test_figures_of_any_type(dtype: torch.dtype) -> None:
    total = WeightedReward(three(dtype), [0.5, 0.25, -1.0])(*ASKED)
    assert (total.dtype, total.tolist()) == (torch.float32, [-2.75, 1.75])


def test_figures_of_several_devices_meet_on_the_first_one_s() -> None:
    parts = WeightedReward(three()).parts(*ASKED)
    parts["prompt"] = parts["prompt"].to("meta")
    assert WeightedReward(three()).total(parts).device.type == "meta"


def test_a_toxicity_score_with_a_minus(tiny_classifier: str) -> None:
    """What ClassifierReward's documentation says of models whose more is worse."""
    toxic = ClassifierReward(tiny_classifier, "hate", "probability")
    reward = WeightedReward([toxic], [-1.0])
    reward.load()
    scores = reward(*ASKED)
    assert torch.equal(scores, -toxic(*ASKED))
    assert (scores < 0).all()
    assert not torch.equal(*scores)


def test_all_are_loaded() -> None:
    reward = WeightedReward(three())
    assert [part.loaded for _, part in reward.weighted] == [0, 0, 0]
    reward.load()
    assert [part.loaded for _, part in reward.weighted] == [1, 1, 1]


def test_its_rewards_are_its_modules(tiny_classifier: str) -> None:
    """So that they follow it from device to device, and their weights are frozen with it."""
    classifier = ClassifierReward(tiny_classifier)
    reward = WeightedReward([LengthReward(1, 2), classifier])
    assert not list(reward.parameters())
    reward.load()
    assert list(reward.parameters()) == list(classifier.parameters()) != []
    assert classifier in set(reward.modules())
    reward.to(torch.bfloat16)
    assert {p.dtype for p in classifier.parameters()} == {torch.bfloat16}


def test_a_copy_made_before_loading_is_independent(tiny_classifier: str) -> None:
    reward = WeightedReward([LengthReward(3, 3), ClassifierReward(tiny_classifier)], [1.0, 0.5])
    other = copy.deepcopy(reward)
    reward.load()
    assert not list(other.parameters())
    other.load()
    assert torch.equal(reward(*ASKED), other(*ASKED))


def test_the_formula() -> None:
    parts: list[Reward] = [ClassifierReward("c"), LengthReward(1, 9), ClassifierReward("r", None)]
    assert WeightedReward(parts, [1.0, 0.25, -2.0]).describe() == (
        "1 × (logit of 'nothate' by c) + 0.25 × (minus the words short of 1 or beyond 9) "
        "- 2 × (logit by r)"
    )
    assert WeightedReward(parts[2:], [-1.0]).describe() == "- 1 × (logit by r)"


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([], None, r"^reward.rewards=\[\]: name at least one"),
        ([], [], r"^reward.rewards=\[\]: name at least one"),
        (three(), [1.0, 2.0], r"^reward.weights=\[1.0, 2.0\]: 2 for 3 rewards; give one for each"),
        (three(), [], r"^reward.weights=\[\]: 0 for 3 rewards"),
        (
            [*three(), Count("response", 0)],
            None,
            "^reward.rewards: 2 of them are named 'response'; .*option name$",
        ),
        (
            [Count("first", 0), WeightedReward(three())],
            None,
            "^reward.rewards: one of them is a WeightedReward; name its rewards here",
        ),
    ],
)
def test_what_makes_no_sense(
    rewards: list[Reward], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        WeightedReward(rewards, weights)

"""Scores of tokens: who gives them, what they add up to, and what is said if they are none."""

import re
from typing import Any

import pytest
import torch

from detox_lightning.algorithm.types import Rollout
from detox_lightning.errors import TrainingError
from detox_lightning.evaluation.judge import Judge
from detox_lightning.rewards import FunctionReward, LengthReward, Reward, WeightedReward
from detox_lightning.rollout import Scores, first_nonfinite, score
from toys import PAIRS, collate_pairs

BATCH = collate_pairs(PAIRS[:3])
PREFIXES = [["a", "a b", "a b c"], ["d"], ["e", "e f"]]
TEXTS = ["a b c", "d", "e f"]
NAN = float("nan")


def places(prefixes: list[list[str]]) -> list[list[int]]:
    """1, 2, … for a response's tokens."""
    return [[1 + place for place in range(len(texts))] for texts in prefixes]


class Tensors(Reward):
    """Gives a tensor, which is more than the tokens need, or what it is told to."""

    name = "tensors"
    columns = ("prefixes",)
    given: Any = torch.tensor([[1, 2, 3], [1, 9, NAN], [1, 2, 9]], dtype=torch.float64)

    def forward(self, prompts: Any, responses: Any, references: Any, prefixes: Any = None) -> Any:
        assert prefixes == PREFIXES
        prefixes[0].clear()  # its own
        return self.given


def scored(reward: Reward) -> Scores:
    return score(reward, BATCH, TEXTS, "here", PREFIXES)


@pytest.mark.parametrize("reward", [FunctionReward(places), Tensors()], ids=["function", "class"])
def test_a_response_s_score_is_the_sum(reward: Reward) -> None:
    scores = scored(reward)
    assert scores.tokens is not None
    assert scores.tokens.dtype == scores.total.dtype == torch.float32
    assert scores.tokens.tolist() == [[1, 2, 3], [1, 0, 0], [1, 2, 0]]
    assert scores.total.tolist() == scores.parts[reward.name].tolist() == [6, 1, 3]


def test_what_takes_prefixes_may_score_responses() -> None:
    def tokens(prefixes: list[list[str]]) -> list[int]:
        return [*map(len, prefixes)]

    scores = scored(FunctionReward(tokens))
    assert scores.tokens is None
    assert scores.total.tolist() == [3, 1, 2]


def test_a_sum_of_rewards_of_both_kinds() -> None:
    """What isn't known token by token is left for the last one: 10 times the words too many."""
    reward = WeightedReward([LengthReward(0, 1), places, Tensors()], [10.0, 1.0, -0.5])
    assert (reward.columns, reward.telescopes) == (("prefixes",), False)
    scores = scored(reward)
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "length": [-2, 0, -1],
        "places": [6, 1, 3],
        "tensors": [6, 1, 3],
    }
    assert scores.total.tolist() == [-20 + 3, 0.5, -10 + 1.5]
    assert scores.tokens is not None
    assert scores.tokens.tolist() == [[0.5, 1, 1.5], [0.5, 0, 0], [0.5, 1, 0]]


def test_evaluation_takes_the_sum() -> None:
    judge: Any = type("Quiet", (), {"reward": FunctionReward(places)})()
    judge.toxicity = type("Silent", (), {"__call__": lambda self, texts: torch.zeros(3)})()
    judge.toxicity.classifier = type("Named", (), {"name": "c"})
    assert Judge.score(judge, BATCH, TEXTS, PREFIXES)["score"].tolist() == [6, 1, 3]


# -- what is said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 2), "[3, 2]"),
        (torch.zeros(2, 3), "[2, 3]"),
        (torch.zeros(3, 3, 1), "[3, 3, 1]"),
        (torch.zeros(3, 3, dtype=torch.complex64), "[3, 3] of torch.complex64"),
        ([[1.0] * 3] * 3, "list"),
    ],
)
def test_token_scores_have_a_shape(monkeypatch: pytest.MonkeyPatch, given: Any, said: str) -> None:
    monkeypatch.setattr(Tensors, "given", given)
    message = (
        f"here: the reward 'tensors' gave {said} where a tensor [3] or [3, 3] is expected, one "
        "score for each of 3 responses or of their tokens: look at its forward"
    )
    for reward in (Tensors(), WeightedReward([LengthReward(0, 1), Tensors()])):
        with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
            scored(reward)


@pytest.mark.parametrize(
    ("given", "said"),
    [([[1.0], [2.0], [3.0, 4.0]], "list"), ([["a"] * 3, ["b"], ["c"] * 2], "list")],
)
def test_a_function_gives_a_number_for_each_token(given: Any, said: str) -> None:
    def odd(prefixes: list[list[str]]) -> Any:
        return given

    message = f"the reward 'odd' gave {said} where a tensor [3] or [3, 3] is expected"
    with pytest.raises(TrainingError, match=re.escape(message)):
        scored(FunctionReward(odd))


def test_tokens_are_scored_only_by_who_has_seen_them() -> None:
    """A class that asks for no prefixes gives a score for each response, as ever."""

    class Square(Reward):
        name = "square"

        def forward(self, prompts: Any, responses: Any, references: Any) -> Any:
            return torch.zeros(3, 3)

    with pytest.raises(TrainingError, match=r"gave \[3, 3\] where a tensor \[3\] is expected"):
        score(Square(), BATCH, TEXTS, "here")


def test_a_total_of_one_s_own_that_knows_no_tokens_is_named() -> None:
    class Mean(WeightedReward):
        name = "mean"

        def total(self, parts: Any) -> Any:
            return torch.zeros(3)

    message = "here: the reward 'mean' gave [3] where a tensor [3, 3] is expected, one score "
    with pytest.raises(TrainingError, match=rf"^{re.escape(message)}.*: look at its total$"):
        scored(Mean([places]))


@pytest.mark.parametrize("spoilt", [NAN, float("inf")])
def test_a_token_score_that_is_not_finite_is_named(
    monkeypatch: pytest.MonkeyPatch, spoilt: float
) -> None:
    given = torch.ones(3, 3)
    given[2, 0] = spoilt
    monkeypatch.setattr(Tensors, "given", given)
    ids, mask = torch.zeros(3, 3, dtype=torch.long), torch.ones(3, 3).bool()
    rollout = Rollout(ids, mask, ids, mask, *torch.zeros(4, 3, 3), torch.zeros(3), mask[:, 0])
    assert first_nonfinite(rollout, scored(Tensors()), "tensors", TEXTS) == (
        f"the reward 'tensors' gave {spoilt} for the response 'e f'"
    )

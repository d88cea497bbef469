"""A reward of whole texts, told token by token: who earns it, and that all else stays."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import GAE, GRPO, RLOO, AdvantageEstimator, Reinforce
from detox_lightning.algorithm.experience import token_rewards
from detox_lightning.algorithm.masks import mask_from_lengths
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.rewards import (
    ClassifierReward,
    FunctionReward,
    PrefixReward,
    RougeReward,
    WeightedReward,
)
from detox_lightning.rollout import Scores, score
from numerics import EXACT
from toys import PAIRS, collate_pairs

BATCH = collate_pairs(PAIRS[:4])._replace(columns={"bonus": [0.0, 0.5, 0.0, 0.0]})
PREFIXES = [
    ["ill", "ill ill", "ill ill nice", "ill ill nice"],  # EOS adds no text
    ["nice"],
    [""],
    ["", "nice", "nice ill"],  # half a letter is none
]
TEXTS = [texts[-1] for texts in PREFIXES]


def kindness(responses: list[str]) -> list[float]:
    """2 for the empty text; each ``nice`` counts 3, and each ``ill`` -1."""
    return [2.0 + 3 * text.count("nice") - text.count("ill") for text in responses]


def scored(reward: Any) -> Scores:
    return score(reward, BATCH, TEXTS, "here", PREFIXES)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [[-1, -1, 3, 2], [5, 0, 0, 0], [2, 0, 0, 0], [0, 3, 1, 0]]),
        (2, [[0, -2, 0, 5], [5, 0, 0, 0], [2, 0, 0, 0], [0, 3, 1, 0]]),
        (9, [[0, 0, 0, 3], [5, 0, 0, 0], [2, 0, 0, 0], [0, 0, 4, 0]]),
    ],
)
def test_each_token_gets_the_change_that_it_makes(every: int, expected: list[list[int]]) -> None:
    """The last one gets the empty text's 2 as well; a response's tokens add up to its score."""
    scores = scored(PrefixReward(kindness, every))
    assert scores.tokens is not None
    assert scores.tokens.tolist() == expected
    assert scores.total.tolist() == kindness(TEXTS) == [3, 5, 2, 4]
    assert list(scores.parts) == ["kindness"]
    plain = score(FunctionReward(kindness), BATCH, TEXTS, "here", PREFIXES)
    assert plain.tokens is None
    assert plain.total.tolist() == scores.total.tolist()


def test_each_text_is_scored_once_in_one_batch() -> None:
    asked = []

    def noted(prompts: list[str], responses: list[str], references: list[str]) -> list[float]:
        asked.append(list(zip(prompts, responses, references, strict=True)))
        return [0.0] * len(responses)

    scored(PrefixReward(noted))
    ((first, *others),) = asked
    assert first == (BATCH.prompts[0], "", BATCH.references[0])
    assert len({first, *others}) == 1 + len(others) == 4 + 2 + 1 + 3


def test_columns_go_with_their_rows() -> None:
    def raised(responses: list[str], bonus: list[float]) -> list[float]:
        return [x + more for x, more in zip(kindness(responses), bonus, strict=True)]

    reward = PrefixReward(raised)
    assert reward.columns == ("prefixes", "bonus")
    assert scored(reward).total.tolist() == [3, 5.5, 2, 4]
    assert scored(reward).tokens[:, 0].tolist() == [-1, 5.5, 2, 0]  # type: ignore[index]


def test_without_prefixes_it_is_the_reward_itself() -> None:
    for reward in (PrefixReward(kindness), WeightedReward([PrefixReward(kindness)], [2.0])):
        assert reward.telescopes
        scores = score(reward, BATCH, TEXTS, "here")
        assert scores.tokens is None
        assert scores.total.tolist() == scored(reward).total.tolist()
    assert PrefixReward(RougeReward()).needs == ("reference",)
    described = PrefixReward(RougeReward(), 3).describe()
    assert described == "rougeL with the reference, told after every 3 tokens"


@pytest.mark.parametrize(
    "estimator", [RLOO(k=2), GRPO(k=4), Reinforce()], ids=lambda x: type(x).__name__
)
def test_estimators_that_add_up_see_no_difference(estimator: AdvantageEstimator) -> None:
    shaped, plain, mask, values = rewards_of_both()
    assert not torch.equal(shaped, plain)
    ours, theirs = (estimator(rewards, values, mask)[0] for rewards in (shaped, plain))
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=EXACT, rtol=0)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_gae_sees_what_the_text_so_far_is_worth(gae_lambda: float) -> None:
    """It is as if the value head knew the reward of the text before each token."""
    shaped, plain, mask, values = rewards_of_both()
    before = torch.zeros_like(values)
    for row, texts in enumerate(PREFIXES):
        before[row, : len(texts)] = torch.tensor(kindness(["", *texts[:-1]])) - kindness([""])[0]
    gae = GAE(1.0, gae_lambda)
    ours, as_if = gae(shaped, values, mask)[0], gae(plain, values + before, mask)[0]
    torch.testing.assert_close(ours, as_if, atol=EXACT, rtol=0)
    assert (ours - gae(plain, values, mask)[0]).abs().max() > 0.5


def rewards_of_both() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token rewards told token by token and at the end, mask, and values of a random head."""
    scores = scored(PrefixReward(kindness))
    torch.manual_seed(0)
    kl, values = torch.randn(2, 4, 4, dtype=torch.float64)
    mask = mask_from_lengths(torch.tensor([*map(len, PREFIXES)]), 4)
    total, tokens = scores.total.double(), scores.tokens
    shaped, plain = (token_rewards(total, kl, mask, 0.1, given) for given in (tokens, None))
    return shaped, plain, mask, values


# -- what is said


def test_what_scores_tokens_itself_is_refused() -> None:
    for reward in (PrefixReward(kindness), WeightedReward([PrefixReward(kindness)])):
        with pytest.raises(InputError, match=rf"^reward.reward: '{reward.name}' scores tokens its"):
            PrefixReward(reward)


def test_a_reward_within_that_gives_too_few_scores_is_named() -> None:
    def stingy(responses: list[str]) -> list[float]:
        return [0.0] * 4

    message = (
        "here: the reward 'stingy' failed with ValueError: it gave [4] for 10 texts, the "
        "beginnings of responses ("
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}"):
        scored(PrefixReward(stingy))


def test_what_it_makes_likelier_is_found(tiny_classifier: str) -> None:
    hateful = PrefixReward(ClassifierReward(tiny_classifier, "hate"))
    for reward in (hateful, WeightedReward([hateful])):
        assert Judge(EvaluationPlan(), reward).toxic_aims() == ["hate"]

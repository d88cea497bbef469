"""Similarity as a reward, against vectors made one by one; and measures that cost nothing."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from detox_lightning.errors import InputError
from detox_lightning.rewards import (
    FunctionReward,
    LengthReward,
    Reward,
    RougeReward,
    SimilarityReward,
    WeightedReward,
)
from detox_lightning.rewards.measures import with_measure
from numerics import FLOAT32

TEXTS = ["Ann is glad", "", "Bob", "a moron is late to the party and you are not", "Ann is glad"]
OTHERS = ["Ann is sad", "Eve", "Bob ", "Dan", "a dog"]


@pytest.fixture(scope="module")
def similarity(tiny_encoder: str) -> SimilarityReward:
    reward = SimilarityReward(tiny_encoder, batch_size=2)
    reward.load()
    return reward


def vectors(folder: str, texts: list[str]) -> torch.Tensor:
    """The mean of the last hidden states of each text alone, with a length of 1."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        means = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            for text in texts
        ]
    return torch.stack([mean / mean.norm() for mean in means])


def test_it_is_the_cosine_of_means(similarity: SimilarityReward, tiny_encoder: str) -> None:
    ours, theirs = vectors(tiny_encoder, TEXTS), vectors(tiny_encoder, OTHERS)
    expected = (ours * theirs).sum(dim=1)
    assert expected.std() > 0.01
    scores = similarity(OTHERS, TEXTS, ["not read"] * 5)
    torch.testing.assert_close(scores, expected, rtol=0, atol=10 * FLOAT32)
    assert float(scores[2]) == pytest.approx(1, abs=10 * FLOAT32)  # but for white space


def test_to_the_reference(tiny_encoder: str, similarity: SimilarityReward) -> None:
    reward = SimilarityReward(tiny_encoder, to="reference")
    reward.load()
    found = reward(["not read"] * 5, TEXTS, OTHERS)
    expected = similarity(OTHERS, TEXTS, [""] * 5)
    torch.testing.assert_close(found, expected, rtol=0, atol=10 * FLOAT32)
    assert (reward.needs, similarity.needs) == (("reference",), ())
    assert reward.describe() == f"similarity to the reference by {tiny_encoder}"


def test_long_texts_lose_their_end(similarity: SimilarityReward) -> None:
    """The encoder reads 64 tokens."""
    with pytest.warns(UserWarning, match="the end was cut off in 1 of"):
        scores = similarity(["Ann " * 63], ["Ann " * 63 + "party " * 20], [""])
    assert float(scores) == pytest.approx(1, abs=10 * FLOAT32)


def test_a_model_with_a_head_is_refused(tiny_classifier: str) -> None:
    reward = SimilarityReward(tiny_classifier)
    with pytest.raises(InputError, match=r"is a BertForSequenceClassification, which doesn't enc"):
        reward.load()


# -- what a constraint measures


def test_a_measure_is_added_with_the_weight_0() -> None:
    brief = FunctionReward(lambda responses: [1.0 - len(text) for text in responses], "brief")
    for reward in (brief, WeightedReward([brief, LengthReward(1, 2)], [2.0, 0.5])):
        measuring = with_measure(reward, "rouge1")
        assert isinstance(measuring, WeightedReward)
        (weight, measure) = measuring.weighted[-1]
        assert (weight, type(measure), measure.name) == (0, RougeReward, "rouge1")
        assert measuring.needs == ("reference",)
        texts = [""] * 2, ["a b", "a b c"], ["a b", "d"]
        assert measuring.parts(*texts)["rouge1"].tolist() == [1, 0]
        assert torch.equal(measuring(*texts), reward(*texts))
    assert "similarity" in [x.name for _, x in with_measure(brief, "similarity").weighted]  # type: ignore[attr-defined]


def test_what_the_reward_has_is_not_added() -> None:
    rouge = RougeReward()
    weighted = WeightedReward([rouge, LengthReward(1, 2)])
    for reward, name in ((rouge, "rougeL"), (weighted, "length"), (rouge, "kl")):
        assert with_measure(reward, name) is reward


def test_parts_of_ones_own_are_known_later() -> None:
    class Own(Reward):
        def parts(self, *texts, **columns):
            raise NotImplementedError

    own = Own()
    assert with_measure(own, "rougeL") is own


def test_an_unknown_measure() -> None:
    message = (
        "model.constraint.measure=rouge: it is no part of the reward: give one of kl, similarity, "
        "rouge1, rouge2, rougeL, rougeLsum, length"
    )
    with pytest.raises(InputError) as caught:
        with_measure(LengthReward(1, 2), "rouge")
    assert str(caught.value) == message

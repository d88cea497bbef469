"""ROUGE as a reward: by hand, and against the package it stands on."""

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from detox_lightning.rewards import RougeReward
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, Kind, rouge

RESPONSES = ["the cat sat", "Eve went out.\nDan stayed in.", "", "the cat sat", "Ann walked home ."]
REFERENCES = ["the cat sat on the mat", "Dan stays in.\nEve went out.", "x", "", "Ann walks home"]


@pytest.mark.parametrize("kind", ROUGE_KINDS)
def test_as_the_package_scores(kind: Kind) -> None:
    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(RESPONSES, REFERENCES, strict=True)
    expected = [scorer.score(reference, text)[kind].fmeasure for text, reference in pairs]
    scores = RougeReward(kind)(["never looked at"] * 5, RESPONSES, REFERENCES)
    assert torch.equal(scores, torch.tensor(expected))


def test_by_hand() -> None:
    scores = {kind: RougeReward(kind)([""] * 5, RESPONSES, REFERENCES) for kind in ROUGE_KINDS}
    # Three words of three against six; two pairs of two against five. Nothing shared: 0.
    assert scores["rouge1"].tolist() == pytest.approx([2 * 3 / 9, 1, 0, 0, 1])
    assert scores["rouge2"].tolist()[0] == pytest.approx(2 * 2 / 7)
    assert scores["rougeL"].tolist() == pytest.approx([2 * 3 / 9, 0.5, 0, 0, 1])
    assert scores["rougeLsum"].tolist()[1] == 1


def test_some_kinds_are_those_of_all() -> None:
    every = rouge(RESPONSES, REFERENCES)
    assert every.shape == (5, len(ROUGE_KINDS))
    assert torch.equal(rouge(RESPONSES, REFERENCES, ["rougeL", "rouge1"]), every[:, [2, 0]])
    assert rouge([], []).shape == (0, len(ROUGE_KINDS))


def test_its_name_is_its_kind() -> None:
    assert [RougeReward(kind).name for kind in ROUGE_KINDS] == list(ROUGE_KINDS)
    assert RougeReward().describe() == "rougeL with the reference"


def test_each_response_needs_its_reference() -> None:
    with pytest.raises(ValueError, match="argument"):
        RougeReward()(["", ""], ["a", "b"], ["a"])

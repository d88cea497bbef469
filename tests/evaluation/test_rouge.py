"""ROUGE by hand and against the package it stands on."""

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.utilities import dim_zero_sum

from detox_lightning.demo import ASSETS
from detox_lightning.evaluation.meter import Rouge
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, rouge

PREDICTIONS = ["Ann walked home .", "Bob is a fool", "", "Eve went out.\nDan stayed in."]
REFERENCES = ["Ann walks home", "Bob is very angry", "Kim is late", "Dan stays in.\nEve went out."]


def test_by_hand() -> None:
    meter = Rouge()
    meter.update(["the cat sat"], ["the cat sat on the mat"])
    values = meter.compute()
    # Three words of three against six; two pairs of two against five.
    assert values["rouge1"] == pytest.approx(2 * 3 / (3 + 6))
    assert values["rouge2"] == pytest.approx(2 * 2 / (2 + 5))
    assert values["rougeL"] == pytest.approx(2 * 3 / (3 + 6))


def test_means_of_the_packages_own_scores() -> None:
    meter = Rouge()
    meter.update(PREDICTIONS[:1], REFERENCES[:1])
    meter.update(PREDICTIONS[1:], REFERENCES[1:])
    scorer = RougeScorer(ROUGE_KINDS, use_stemmer=True)
    scores = [scorer.score(r, p) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    values = meter.compute()
    for kind in ROUGE_KINDS:
        mean = sum(score[kind].fmeasure for score in scores) / len(scores)
        assert values[kind] == pytest.approx(mean, abs=1e-6)
    assert scores[0]["rouge1"].fmeasure == 1  # stemmed, punctuation left out
    assert scores[3]["rougeLsum"].fmeasure == 1 > scores[3]["rougeL"].fmeasure


@pytest.mark.parametrize("name", ["the demo", "DialogSum"])
def test_200_pairs_are_scored_as_the_package_scores_them(name: str, shared: Path) -> None:
    """The beginning of a dialogue against its summary; to the last bit of a float32."""
    file = {
        "the demo": ASSETS / "dialogues" / "test.jsonl.gz",
        "DialogSum": shared / "data" / "dialogsum" / "validation.jsonl.gz",
    }[name]
    if not file.exists():
        pytest.skip(f"{file} isn't here")
    with gzip.open(file, "rt", encoding="utf8") as lines:
        rows = [json.loads(line) for line in islice(lines, 200)]
    pairs = [(row["dialogue"][:200], row["summary"]) for row in rows]
    scorer = RougeScorer(ROUGE_KINDS, use_stemmer=True)
    scores = [scorer.score(target=summary, prediction=text) for text, summary in pairs]
    expected = torch.tensor([[score[kind].fmeasure for kind in ROUGE_KINDS] for score in scores])
    assert torch.equal(rouge(*map(list, zip(*pairs, strict=True))), expected)
    assert expected.shape == (200, 4)
    assert (expected.mean(dim=0) > 0.05).all()


def test_processes_add_up() -> None:
    """The states are sums, so that each text counts once wherever it was judged."""
    whole, first, second = Rouge(), Rouge(), Rouge()
    whole.update(PREDICTIONS, REFERENCES)
    first.update(PREDICTIONS[:3], REFERENCES[:3])
    second.update(PREDICTIONS[3:], REFERENCES[3:])
    assert set(whole._reductions.values()) == {dim_zero_sum}
    first.sums += second.sums
    first.count += second.count
    for kind, value in whole.compute().items():
        assert first.compute()[kind] == pytest.approx(value.item(), abs=1e-6)


def test_starts_afresh_and_empty() -> None:
    meter = Rouge()
    meter.update(["a b"], ["a b"])
    assert set(meter.compute()) == set(ROUGE_KINDS)
    meter.reset()
    assert meter.compute() == {}


def test_what_has_no_reference_is_left_out() -> None:
    meter = Rouge()
    meter.update(["a b", "c", "d"], ["a b", " ", ""])
    assert [value.item() for value in meter.compute().values()] == [1, 1, 1, 1]


def test_each_text_needs_its_reference() -> None:
    with pytest.raises(ValueError, match="argument"):
        Rouge().update(["a", "b"], ["a"])

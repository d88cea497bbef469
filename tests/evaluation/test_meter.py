"""The means of six responses, by hand."""

import pytest
import torch

from detox_lightning.evaluation.meter import ResponseMeter
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, rouge

#       response              reference         score  toxicity   kl  tokens  EOS
ROWS = [
    ("the cat sat", "the cat sat", 2.0, 0.0, 0.0, 4, True),
    ("", "nobody came", -1.0, 0.5, 3.0, 1, True),
    ("dog", "the dog", 0.5, 0.25, -0.5, 2, True),
    ("red blue green", "blue red green", 1.0, 0.499, 1.0, 4, True),
    ("one two three four", "one two", 0.0, 0.75, 2.5, 4, False),
    ("fool", "kind", -4.0, 1.0, 6.0, 2, True),
]
MEANS = {
    "score": -0.25,
    "toxicity": 2.999 / 6,
    "toxicity_probability": 3 / 6,  # from 0.5 on
    "kl": 2.0,
    "length": 17 / 6,
    "eos_rate": 5 / 6,
    # F-measures of each: 1, 0, 2/3, 1, 2/3, 0; of pairs of words: 1, 0, 0, 0, 1/2, 0;
    # of the longest common subsequence: 1, 0, 2/3, 2/3, 2/3, 0
    "rouge1": 10 / 18,
    "rouge2": 1.5 / 6,
    "rougeL": 3 / 6,
    "rougeLsum": 3 / 6,
}


def fill(meter: ResponseMeter, *sizes: int) -> ResponseMeter:
    """Hands the six to a meter, in batches of these sizes."""
    rows = iter(ROWS)
    for size in sizes:
        texts, references, *numbers = zip(*(next(rows) for _ in range(size)), strict=True)
        names = ("score", "toxicity", "kl", "length", "has_eos")
        figures = dict(zip(names, map(torch.tensor, numbers), strict=True))
        kinds = rouge(list(texts), list(references)).unbind(dim=1)
        meter.update(figures | dict(zip(ROUGE_KINDS, kinds, strict=True)))
    return meter


@pytest.mark.parametrize("sizes", [(6,), (4, 2), (1, 2, 3)])
def test_all_means_by_hand(sizes: tuple[int, ...]) -> None:
    means = {name: float(mean) for name, mean in fill(ResponseMeter(), *sizes).compute().items()}
    assert means == pytest.approx(MEANS, abs=1e-6)


def test_a_meter_can_start_over() -> None:
    meter = fill(ResponseMeter(), 3)
    meter.compute()
    meter.reset()
    assert float(fill(meter, 6).compute()["rougeL"]) == pytest.approx(0.5)
    assert set(meter.counts.tolist()) == {0, 6}  # some figures are missing


def test_rouge_is_of_those_with_something_to_compare_with() -> None:
    figures = {name: torch.zeros(3) for name in ("score", "toxicity", "kl", "length", "has_eos")}
    kinds = dict.fromkeys(ROUGE_KINDS, torch.tensor([0.5, torch.nan, 0.25]))
    meter = ResponseMeter()
    meter.update(figures | kinds)
    assert {float(meter.compute()[name]) for name in ROUGE_KINDS} == {0.375}
    # a score that is missing is a fault, not something that isn't known
    meter.update({**figures, **kinds, "score": torch.tensor([0, torch.nan, 0])})
    assert meter.compute()["score"].isnan()


def test_without_references_there_is_no_rouge() -> None:
    figures = {name: torch.zeros(3) for name in ("score", "toxicity", "kl", "length", "has_eos")}
    meter = ResponseMeter()
    meter.update(figures | dict.fromkeys(ROUGE_KINDS, torch.full((3,), torch.nan)))
    assert set(meter.compute()) == set(MEANS) - set(ROUGE_KINDS)

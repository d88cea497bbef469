"""What can be asked, and what can't."""

from typing import Any

import pytest

from detox_lightning.errors import InputError
from detox_lightning.evaluation.plan import EvaluationPlan, sample_number


def test_decodings_and_their_numbers() -> None:
    assert EvaluationPlan().decodings == ["greedy", "sample 1"]
    assert EvaluationPlan(greedy=False, samples=2).decodings == ["sample 1", "sample 2"]
    assert EvaluationPlan(samples=0).decodings == ["greedy"]
    numbers = [sample_number(way) for way in EvaluationPlan(samples=12).decodings]
    assert numbers == list(range(13))
    assert EvaluationPlan().predicted == ["greedy"]
    assert EvaluationPlan(greedy=False, samples=2).predicted == ["sample 1"]
    assert EvaluationPlan(samples=3, best_of=2).predicted == ["sample 1", "sample 2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"samples": 0, "greedy": False},
            "model.evaluation.samples=0, greedy=false: this asks for no response; allow one",
        ),
        (
            {"top_p": 0},
            "model.evaluation.top_p=0 leaves no token to sample; 1 is all of them",
        ),
        (
            {"identity_groups": ["old", "young"]},
            "model.evaluation.identity_groups=['old', 'young']: these are groups of "
            "identity_templates, and that is null; name a file there",
        ),
        (
            {"best_of": 8, "samples": 5},
            "model.evaluation.best_of=8 is above samples=5: there are too few to choose from; give "
            "--model.evaluation.samples 8, or a lower best_of",
        ),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        EvaluationPlan(**options)
    assert str(caught.value) == message

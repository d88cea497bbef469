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
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        EvaluationPlan(**options)
    assert str(caught.value) == message

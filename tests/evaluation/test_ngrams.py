"""Distinct n-grams by hand."""

import math

import pytest

from detox_lightning.evaluation.statistics import distinct


@pytest.mark.parametrize(
    ("texts", "size", "share"),
    [
        (["the cat and the dog"], 1, 4 / 5),
        (["the cat and the dog"], 2, 4 / 4),
        (["The cat, the cat."], 2, 2 / 3),  # the cat, cat the, the cat
        (["a b", "a b", "a c"], 2, 2 / 3),  # over all responses to a prompt
        (["a b", "c d"], 3, math.nan),  # none across the end of a text
        (["don't stop", "don't go"], 1, 3 / 4),
        (["", "one"], 1, 1.0),
        ([""], 1, math.nan),
    ],
)
def test_by_hand(texts: list[str], size: int, share: float) -> None:
    assert distinct(texts, size) == pytest.approx(share, nan_ok=True)

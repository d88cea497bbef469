"""What people prefer and how far they agree, by hand."""

import math

import numpy as np
import pytest

from detox_lightning.evaluation.people import (
    WORDS,
    _coincidences,
    judge_answers,
    krippendorff_alpha,
    verdict,
)


def answers(*people: str) -> np.ndarray:
    """A letter for each row: A, B, s for same, a dot for none."""
    places = {"A": 0, "B": 1, "s": 2, ".": -1}
    return np.array([[places[letter] for letter in person] for person in people])


def alpha(*people: str) -> float:
    return float(krippendorff_alpha(_coincidences(answers(*people))))


def test_alpha_of_two_people() -> None:
    """Example A of Krippendorff's page: 4 of 10 differ; 14 and 6 of 20 answers are of a kind."""
    assert alpha("ABAAAAAABA", "BBBAABAAAA") == pytest.approx(1 - 19 * 8 / (400 - 196 - 36))


def test_alpha_of_three_who_leave_rows_out() -> None:
    """Pairs: 3 of A with A, 2 of B with B, 3 that differ; the last row has a single answer."""
    assert alpha("ABAB", "ABs.", "A.B.") == pytest.approx(1 - 7 * 3 / (64 - 16 - 9 - 1))


def test_alpha_at_its_ends() -> None:
    assert alpha("ABsAB", "ABsAB") == pytest.approx(1)
    assert alpha("ABAB", "BABA") < 0
    with np.errstate(invalid="ignore"):
        assert math.isnan(alpha("AAA", "AAA"))  # nothing tells agreement from habit
        assert math.isnan(alpha("AB..", "..AB"))
    draw = np.random.default_rng(0).integers(3, size=(2, 4000))
    assert float(krippendorff_alpha(_coincidences(draw))) == pytest.approx(0, abs=0.05)


def test_preference_and_agreement_with_a_classifier() -> None:
    given = answers("ABAB", "ABs.", "A.B.")
    after = np.array([0, 0, 1, 1])
    classifier = verdict(np.array([0.1, 0.4, 0.9, 0.1]), np.array([0.9, 0.405, 0.2, 0.3]))
    assert [WORDS[word] for word in classifier] == ["A", "same", "B", "A"]
    assert verdict(np.array([np.nan]), np.array([0.1])).tolist() == [2]
    judged = judge_answers(given, after, {"toxicity": classifier})
    assert (judged.filled, judged.rows) == (9, 4)
    assert judged.after_preferred is not None
    # by row: all, none, half (one of each kind), all
    assert judged.after_preferred["value"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert judged.after_preferred["low"] == 0.25  # 5 of 256 resamples are below
    assert judged.after_preferred["high"] == 1
    # by row: all agree, ties on one side, one of each kind, none
    agreed = judged.classifiers["toxicity"]
    assert agreed is not None
    assert agreed["value"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert judged.alpha is not None
    assert judged.alpha["value"] == pytest.approx(1 - 21 / 38)


def test_one_row_or_none_has_no_interval() -> None:
    alone = judge_answers(answers("A"), np.array([0]), {})
    assert alone.after_preferred == {"value": 1.0, "low": None, "high": None}
    assert alone.alpha is None
    none = judge_answers(answers("...", "..."), np.array([0, 1, 0]), {})
    assert (none.filled, none.rows, none.after_preferred, none.alpha) == (0, 0, None, None)

"""Pieces put together in the prompts' order, and rows for people."""

import json
from typing import Any

import numpy as np
import pytest

from detox_lightning.evaluation.comparison import Answers, BatchComparison, Comparison, merge

DECODINGS = ["greedy", "sample 1"]


def piece(*places: int) -> BatchComparison:
    """Texts and figures that tell the place."""
    toxicity = np.array([[place / 10, 0.5] for place in places])
    kl = np.array([[np.nan, float(place)] for place in places])
    before, after = (
        [[f"{side} {place} {way}" for way in DECODINGS] for place in places]
        for side in ("before", "after")
    )
    comparison = Comparison(
        [f"prompt {place}" for place in places],
        [f"reference {place}" for place in places],
        DECODINGS,
        Answers(before, {"toxicity": toxicity}),
        Answers(after, {"toxicity": 0.9 - toxicity, "kl": kl}),
    )
    return BatchComparison(list(places), comparison)


def test_order_is_the_prompts_whatever_the_pieces() -> None:
    whole = merge([piece(4, 0), piece(2), piece(3, 1)])
    assert whole.prompts == [f"prompt {i}" for i in range(5)]
    assert whole.references == [f"reference {i}" for i in range(5)]
    assert whole.after.texts[3] == ["after 3 greedy", "after 3 sample 1"]
    assert whole.before.figures["toxicity"][:, 0].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert whole.after.figures["kl"][:, 1].tolist() == [0, 1, 2, 3, 4]


def test_rows_begin_with_the_largest_fall() -> None:
    rows: list[dict[str, Any]] = merge([piece(0, 1, 2)]).rows()
    assert [row["difference"] for row in rows] == sorted(row["difference"] for row in rows)
    assert rows[0] == {
        "prompt": "prompt 0",
        "reference": "reference 0",
        "decoding": "sample 1",
        "before": "before 0 sample 1",
        "after": "after 0 sample 1",
        "toxicity_before": 0.5,
        "toxicity_after": 0.4,
        "difference": pytest.approx(-0.1),
        "kl_after": 0.0,
    }
    # what isn't known is null, as json has no NaN
    greedy = next(row for row in rows if row["decoding"] == "greedy")
    assert greedy["kl_after"] is None
    assert "NaN" not in json.dumps(rows)
    assert len(rows) == 6

"""Stored responses become a comparison again."""

from random import Random

import numpy as np
import pytest

from detox_lightning.errors import InputError
from detox_lightning.evaluation.best_of import against_best_of
from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.evaluation.rescoring import mean_toxicity, stored_comparison
from detox_lightning.evaluation.statistics import summarize

N, DECODINGS = 4, ["greedy", "sample 1", "sample 2"]


def stored() -> Comparison:
    """Each prompt twice; the toxicities are all different."""
    noise = np.random.default_rng(0).random((2, N, len(DECODINGS)))
    sides = [
        Answers(
            [[f"{side} {i} {j}" for j in DECODINGS] for i in range(N)],
            {"toxicity": values, "score": values},
        )
        for side, values in zip("ab", noise, strict=True)
    ]
    return Comparison([f"prompt {i // 2}" for i in range(N)], [""] * N, DECODINGS, *sides)


def test_rows_in_any_order_are_the_comparison_that_wrote_them() -> None:
    comparison = stored()
    rows = comparison.rows()
    Random(1).shuffle(rows)
    again = stored_comparison(rows, "toxicity")
    assert sorted(again.prompts) == comparison.prompts
    assert again.decodings == DECODINGS
    for side in ("before", "after"):
        old, new = getattr(comparison, side), getattr(again, side)
        for decoding in range(len(DECODINGS)):
            pairs = [
                {(texts[decoding], values[decoding]) for texts, values in zip(*one, strict=True)}
                for one in (
                    (old.texts, old.figures["toxicity"]),
                    (new.texts, new.figures["toxicity"]),
                )
            ]
            assert pairs[0] == pairs[1]
    assert set(again.after.figures) == {"toxicity", "score"}


def test_what_training_was_worth_under_another_judge() -> None:
    """The reward chooses the best of n, and the stored texts are judged anew."""
    comparison = stored()._replace(prompts=[f"prompt {i}" for i in range(N)])
    kl = {"kl": np.full((N, len(DECODINGS)), 0.5)}
    comparison.after.figures.update(kl)
    rows = comparison.rows()
    for row in rows:
        row["judged_before"], row["judged_after"] = 1 - row["score_before"], 0.0
    found = against_best_of(stored_comparison(rows, "judged"), seed=0)
    assert found is not None
    assert found["effective_n"]["toxicity"]["value"] is None  # better than any choice
    assert found["points"][0]["kl"]["value"] == 0
    best = 1 - comparison.before.figures["score"][:, 1:].max(axis=1)
    assert found["points"][1]["toxicity"]["value"] == pytest.approx(best.mean())
    rows[0]["score_before"] = "high"  # a column of somebody else's
    assert "score" not in stored_comparison(rows, "judged").before.figures


def test_responses_of_a_prompt_stay_together() -> None:
    """Sorted by their difference, as the file has them, they lie apart."""
    comparison = stored()._replace(prompts=[f"prompt {i}" for i in range(N)])
    again = stored_comparison(comparison.rows(), "toxicity")
    old, new = (summarize(one, 0, intervals=False)["sampled"] for one in (comparison, again))
    for name in ("toxicity", "expected_max_toxicity", "toxicity_probability", "distinct1"):
        assert new[name]["after"]["value"] == pytest.approx(old[name]["after"]["value"])
        assert new[name]["improvement"]["value"] == pytest.approx(old[name]["improvement"]["value"])


def test_a_prompt_without_one_of_the_decodings() -> None:
    rows = [row for row in stored().rows() if row["after"] != "b 3 sample 2"]
    with pytest.raises(InputError, match=r"^the prompt 'prompt 1' has no row of the decoding 'sam"):
        stored_comparison(rows, "toxicity")


def test_means_and_intervals_go_over_prompts() -> None:
    toxicity = np.array([0.9, 0.5, 0.1, 0.3])
    found = mean_toxicity(toxicity, ["a", "a", "b", "b"])
    assert found["toxicity"] == pytest.approx({"value": 0.45, "low": 0.2, "high": 0.7})
    assert found["toxic"] == pytest.approx({"value": 0.5, "low": 0, "high": 1})
    alone = mean_toxicity(toxicity, ["a"] * 4)["toxicity"]
    assert alone == {"value": pytest.approx(0.45), "low": None, "high": None}
    wide, narrow = (mean_toxicity(np.tile(toxicity, 25), p) for p in (["a", "b"] * 50, range(100)))
    assert narrow["toxicity"]["low"] > 0.35
    assert wide["toxicity"]["low"] == pytest.approx(0.4)

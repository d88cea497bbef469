"""Every figure of a comparison by hand, and intervals that hold what they promise."""

import math
from typing import Any

import numpy as np
import pytest

from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.evaluation.statistics import flat, summarize

NAN = math.nan
# Three prompts; each gets a greedy response and two samples.
TEXTS_BEFORE = [
    ["you fool", "you fool you fool", "you are kind"],
    ["a b c", "a b c d", "a b"],
    ["fine", "good", "good"],
]
TEXTS_AFTER = [
    ["you are kind", "you are kind", "you are kind"],
    ["a b c", "a b c d", "a b"],
    ["fine", "", "good"],
]
BEFORE = {
    "toxicity": [[0.9, 0.8, 0.2], [0.1, 0.5, 0.1], [0.0, 0.0, 0.2]],
    "score": [[-2, -1, 1], [1, 0, 1], [2, 2, 1]],
    "rouge1": [[0.2, 0.1, 0.3], [0.5, 0.6, 0.4], [0.0, 0.0, 0.4]],
    "length": [[3, 5, 4], [4, 5, 3], [2, 2, 2]],
    "has_eos": [[1, 0, 1], [1, 1, 1], [1, 1, 1]],
    "nll": [[4, 6, 3], [5, 8, 4], [1, 2, 2]],
    "nll_tokens": [[2, 4, 3], [3, 4, 2], [1, 1, 1]],
}
AFTER = {
    "toxicity": [[0.1, 0.1, 0.1], [0.1, 0.6, 0.1], [0.0, 0.0, 0.0]],
    "score": [[1, 1, 1], [1, -1, 1], [2, 3, 1]],
    "rouge1": [[0.4, 0.4, 0.4], [0.5, 0.6, 0.4], [0.0, 0.0, 0.3]],
    "length": [[4, 4, 4], [4, 5, 3], [2, 1, 2]],
    "has_eos": [[1, 1, 1], [1, 1, 1], [1, 1, 0]],
    "nll": [[2, 3, 3], [5, 8, 4], [1, 0, 2]],
    "nll_tokens": [[3, 3, 3], [3, 4, 2], [1, 0, 1]],
    "kl": [[NAN, 1.0, 2.0], [NAN, 0.0, -0.5], [NAN, 3.0, 0.5]],
}
SAMPLED = {
    "toxicity": (1.8 / 6, 0.9 / 6),
    # mean squares: .64 + .04 + .25 + .01 + .04 and .01 + .01 + .36 + .01, by six
    "toxicity_std": (math.sqrt(0.98 / 6 - 0.09), math.sqrt(0.39 / 6 - 0.0225)),
    "expected_max_toxicity": (1.5 / 3, 0.7 / 3),
    "toxicity_probability": (2 / 3, 1 / 3),  # from 0.5 on
    "score": (4 / 6, 1.0),
    "score_std": (math.sqrt(8 / 6 - 4 / 9), math.sqrt(14 / 6 - 1)),
    "rouge1": (1.8 / 6, 2.1 / 6),
    "length": (21 / 6, 19 / 6),
    "eos_rate": (5 / 6, 5 / 6),
    "perplexity": (math.exp(25 / 15), math.exp(20 / 13)),
    # words: 4 of 7, 4 of 6, 1 of 2 and 3 of 6, 4 of 6, 1 of 1
    "distinct1": ((4 / 7 + 4 / 6 + 1 / 2) / 3, (3 / 6 + 4 / 6 + 1) / 3),
    # pairs: 4 of 5, 3 of 4, none and 2 of 4, 3 of 4, none
    "distinct2": ((4 / 5 + 3 / 4) / 2, (2 / 4 + 3 / 4) / 2),
    "distinct3": ((3 / 3 + 2 / 2) / 2, (1 / 2 + 2 / 2) / 2),
    "kl": (None, 1.0),
}
GREEDY = {
    "toxicity": (1.0 / 3, 0.2 / 3),
    "expected_max_toxicity": (1.0 / 3, 0.2 / 3),
    "toxicity_probability": (1 / 3, 0.0),
    "score": (1 / 3, 4 / 3),
    "perplexity": (math.exp(10 / 6), math.exp(8 / 7)),
    "distinct2": (1.0, 1.0),
}


def make(before: dict[str, Any] = BEFORE, after: dict[str, Any] = AFTER) -> Comparison:
    return Comparison(
        ["p", "q", "r"],
        ["you are kind", "a b c", "good"],
        ["greedy", "sample 1", "sample 2"],
        Answers(TEXTS_BEFORE, {name: np.array(x, float) for name, x in before.items()}),
        Answers(TEXTS_AFTER, {name: np.array(x, float) for name, x in after.items()}),
    )


def value(part: dict[str, float] | None) -> float | None:
    return None if part is None else part["value"]


@pytest.mark.parametrize(("group", "expected"), [("sampled", SAMPLED), ("greedy", GREEDY)])
def test_every_figure_by_hand(group: str, expected: dict[str, tuple[float, float]]) -> None:
    summary = summarize(make(), seed=0)[group]
    if group == "sampled":
        assert set(summary) == set(expected)
    assert "kl" not in summarize(make(), seed=0)["greedy"]
    for name, (before, after) in expected.items():
        entry = summary[name]
        assert value(entry["before"]) == (None if before is None else pytest.approx(before)), name
        assert value(entry["after"]) == pytest.approx(after), name
        if before is not None:
            assert value(entry["difference"]) == pytest.approx(after - before), name
        # where there were pairs of words at all
        assert entry["n"] == (2 if name in ("distinct2", "distinct3") else 3), name
    changed = summarize(make(), seed=0)["sampled"]
    assert {name: changed[name]["changed"] for name in ("toxicity", "rouge1", "distinct2")} == {
        "toxicity": 3,
        "rouge1": 2,
        "distinct2": 1,
    }


def test_a_second_classifier_has_the_same_figures() -> None:
    """Swapped, the first one's are the second's."""
    other = {"toxicity": [[0.4] * 3] * 3}
    before, after = ({**x, **other, "second_toxicity": x["toxicity"]} for x in (BEFORE, AFTER))
    summary = summarize(make(before, after), seed=0)["sampled"]
    for name in ("toxicity", "expected_max_toxicity", "toxicity_probability"):
        entry = summary[f"second_{name}"]
        assert value(entry["before"]) == pytest.approx(SAMPLED[name][0]), name
        assert value(entry["after"]) == pytest.approx(SAMPLED[name][1]), name
        assert value(summary[name]["after"]) == (0 if "probab" in name else pytest.approx(0.4))


def test_improvement_is_relative_and_above_zero_where_it_is_one() -> None:
    summary = summarize(make(), seed=0)["sampled"]
    assert value(summary["toxicity"]["improvement"]) == pytest.approx(0.5)
    assert value(summary["rouge1"]["improvement"]) == pytest.approx(0.3 / 1.8)
    # neither is better, and a score's zero is arbitrary
    neither = ("toxicity_std", "length", "kl", "score")
    assert [summary[name]["improvement"] for name in neither] == [None] * 4


def test_the_arithmetic_of_a_published_run() -> None:
    """Mean toxicity .0297 before and .0434 after: worse by 46 %."""
    before, after = ({"toxicity": [[x] * 3] * 3, "score": [[0] * 3] * 3} for x in (0.0297, 0.0434))
    improvement = summarize(make(before, after), seed=0)["sampled"]["toxicity"]["improvement"]
    assert improvement["value"] == pytest.approx(-0.4613, abs=1e-4)
    assert improvement["low"] == improvement["high"] == pytest.approx(improvement["value"])


def test_nothing_is_made_up() -> None:
    """No change relative to zero, no perplexity of no tokens, no interval of one prompt."""
    nothing = {name: np.zeros((3, 3)) for name in ("toxicity", "score", "nll", "nll_tokens")}
    summary = summarize(make(nothing, nothing), seed=0)["sampled"]
    assert summary["toxicity"]["improvement"] is None
    assert value(summary["toxicity"]["before"]) == 0
    assert "perplexity" not in summary
    one = make()
    sides = (
        Answers(side.texts[:1], {k: v[:1] for k, v in side.figures.items()})
        for side in (one.before, one.after)
    )
    alone = summarize(Comparison(["p"], ["r"], one.decodings, *sides), seed=0)["sampled"]
    assert alone["toxicity"]["after"] == {"value": pytest.approx(0.1), "low": None, "high": None}


def rare(before: range, after: range, prompts: int) -> dict[str, Any]:
    """The figure of one sample a prompt, toxic at these prompts before and after training."""
    texts, names = [["a"]] * prompts, ["sample 1"]
    columns = (np.isin(np.arange(prompts), toxic)[:, None] * 1.0 for toxic in (before, after))
    sides = (Answers(texts, {"toxicity": x, "score": -x}) for x in columns)
    comparison = Comparison([""] * prompts, [""] * prompts, names, *sides)
    return summarize(comparison, seed=0)["sampled"]["toxicity"]


def test_a_rare_event_keeps_its_interval() -> None:
    """4 of 500 prompts before and 1 after: 1 resample in 60 has none before."""
    entry = rare(range(4), range(1), 500)
    assert entry["improvement"]["value"] == 0.75
    assert 0 <= entry["improvement"]["low"] < 0.5 < entry["improvement"]["high"] == 1
    assert (entry["n"], entry["changed"]) == (500, 3)


def test_a_resample_without_toxicity_is_no_improvement() -> None:
    """3 of 100 before, none after: .97 ** 100 of the resamples, 4.8 %, have none either time."""
    entry = rare(range(3), range(0), 100)
    assert entry["difference"]["high"] == 0
    assert entry["improvement"] == {"value": 1, "low": 0, "high": 1}
    # 5 of 100: .6 %, so less than the 2.5 % below an interval
    entry = rare(range(5), range(0), 100)
    assert entry["difference"]["high"] < 0
    assert entry["improvement"] == {"value": 1, "low": 1, "high": 1}


def test_toxicity_where_there_was_none_is_infinitely_worse() -> None:
    """3 of 100 before, 3 others after: 4.5 % of the resamples have only the others."""
    entry = rare(range(3), range(3, 6), 100)
    assert entry["improvement"] == {"value": 0, "low": None, "high": None}
    assert entry["difference"]["low"] < 0 < entry["difference"]["high"]


@pytest.mark.quick(1)
@pytest.mark.parametrize("prompts", [20, 50, 100])
def test_an_improvement_excludes_zero_where_its_difference_does(prompts: int) -> None:
    seen = set()
    for many in range(1, 8):
        for few in range(many + 1):
            entry = rare(range(many), range(many - few, many), prompts)
            is_bounded = entry["improvement"]["low"] is not None
            excludes = is_bounded and entry["improvement"]["low"] > 0
            assert excludes == (entry["difference"]["high"] < 0), (many, few)
            seen.add(excludes)
    assert seen == {False, True}


def test_logged_names() -> None:
    logged = flat(summarize(make(), seed=0, intervals=False), "test")
    assert logged["test/before/toxicity"] == pytest.approx(0.3)
    assert logged["test/greedy/after/score"] == pytest.approx(4 / 3)
    assert logged["test/improvement/toxicity"] == pytest.approx(0.5)
    assert "test/before/kl" not in logged
    assert "test/improvement/length" not in logged


def planted(seed: int, prompts: int = 60) -> Comparison:
    """Prompts of very different toxicity, lowered by 0.1 in the mean."""
    rng = np.random.default_rng(seed)
    prompt = rng.beta(0.5, 1.0, (prompts, 1)) * 0.6 + 0.2
    before = prompt + rng.uniform(-0.1, 0.1, (prompts, 2))
    after = prompt - rng.exponential(0.1, (prompts, 1)) + rng.uniform(-0.1, 0.1, (prompts, 2))
    texts = [["", ""]] * prompts
    names = ["sample 1", "sample 2"]
    sides = (Answers(texts, {"toxicity": x, "score": -x}) for x in (before, after))
    return Comparison([""] * prompts, [""] * prompts, names, *sides)


@pytest.mark.slow
def test_intervals_cover_a_planted_difference_in_95_of_100() -> None:
    """160 simulations: 95 % of them give or take three standard errors."""
    covered = 0
    for seed in range(160):
        part = summarize(planted(seed), seed)["sampled"]["toxicity"]["difference"]
        covered += part["low"] <= -0.1 <= part["high"]
    assert covered / 160 == pytest.approx(0.95, abs=0.052)


def test_pairs_stay_together() -> None:
    """Prompts differ more than a prompt differs before and after."""
    summary = summarize(planted(0, prompts=200), 0)["sampled"]["toxicity"]
    before, after, difference = (
        summary[part]["high"] - summary[part]["low"] for part in ("before", "after", "difference")
    )
    assert difference < 0.6 * math.hypot(before, after)  # what strangers would give


def test_the_same_seed_gives_the_same_intervals() -> None:
    comparison = planted(0)
    assert summarize(comparison, seed=3) == summarize(comparison, seed=3)
    assert summarize(comparison, seed=3) != summarize(comparison, seed=4)

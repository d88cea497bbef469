"""The best of n samples without drawing n again, and what a policy is worth beside it."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detox_lightning.errors import InputError
from detox_lightning.evaluation.best_of import (
    against_best_of,
    best_of_kl,
    best_weights,
    effective_n,
    to_log,
    wins,
)
from detox_lightning.evaluation.comparison import Answers, Comparison

NAN = math.nan
Array = NDArray[np.float64]


@pytest.mark.parametrize(
    ("scores", "n", "weights"),
    [
        ([3, 1, 2], 1, [1 / 3, 1 / 3, 1 / 3]),
        ([3, 1, 2], 2, [2 / 3, 0, 1 / 3]),  # the best of two of the three pairs, of none, of one
        ([3, 1, 2], 3, [1, 0, 0]),
        ([5, 5, 0], 2, [0.5, 0.5, 0]),  # two of one score: chance chooses between them
        ([5, 0, 0], 2, [2 / 3, 1 / 6, 1 / 6]),
        ([4, 4, 4], 2, [1 / 3, 1 / 3, 1 / 3]),
        ([NAN, 1, 2], 2, [0, 1 / 3, 2 / 3]),  # what has no score is chosen last
    ],
)
def test_weights_by_hand(scores: list[float], n: int, weights: list[float]) -> None:
    assert best_weights(np.array([scores]), n)[0] == pytest.approx(weights)


def chosen(scores: Array, values: Array, n: int) -> float:
    """The mean over all choices of n samples, of the mean value of those that score best."""
    means = []
    for places in map(list, combinations(range(len(scores)), n)):
        best = scores[places] == scores[places].max()
        means.append(values[places][best].mean())
    return float(np.mean(means))


@pytest.mark.parametrize("kinds", [3, 1000], ids=["many ties", "no ties"])
def test_weights_are_those_of_all_choices(kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    scores = rng.integers(kinds, size=(3, 7)).astype(float)
    values = rng.normal(size=scores.shape)
    for n in range(1, 8):
        found = (best_weights(scores, n) * values).sum(axis=1)
        expected = [chosen(*rows, n) for rows in zip(scores, values, strict=True)]
        assert found == pytest.approx(expected), n


@pytest.mark.parametrize("n", [0, 4])
def test_more_than_there_are_can_t_be_chosen(n: int) -> None:
    with pytest.raises(InputError) as caught:
        best_weights(np.zeros((1, 3)), n)
    assert str(caught.value) == f"the best of {n} of 3 samples: give an n from 1 to 3"


def test_the_kl_divergence_is_bounded_and_nearly_reached() -> None:
    """The best of n of K equally likely values has known probabilities."""
    n = np.arange(1.0, 9)
    for kinds, gap in ((4, 1.0), (10_000, 1e-3)):
        edges = (np.arange(kinds + 1) / kinds) ** n[:, None]
        p = np.diff(edges)
        exact = (p * np.log(p * kinds)).sum(axis=1)
        rest = best_of_kl(n) - exact
        assert rest.min() >= -1e-12
        assert rest.max() < gap
    assert best_of_kl(np.array([1.0, 2.0])) == pytest.approx([0, math.log(2) - 0.5])


def test_an_effective_n_lies_on_a_logarithmic_scale() -> None:
    sizes, curve = np.array([1.0, 2, 4, 8]), np.array([0.5, 0.4, 0.2, 0.3])
    expected = {
        0.6: 1,
        0.5: 1,
        0.45: math.sqrt(2),
        0.4: 2,
        0.3: 2 * math.sqrt(2),  # the smaller of two
        0.2: 4,
        0.1: math.inf,
        NAN: NAN,
    }
    reached = np.array([*expected])
    found = effective_n(sizes, np.repeat(curve[:, None], len(reached), axis=1), reached)
    assert found == pytest.approx([*expected.values()], nan_ok=True)


def test_pairs_are_won_lost_or_halved() -> None:
    after, before = np.array([[1.0, 2], [NAN, 0]]), np.array([[1.0, 0], [NAN, NAN]])
    # 1 against 1 and 0, 2 against both; nothing against nothing, 0 against nothing
    assert wins(after, before).tolist() == [3.5 / 4, (0.5 + 0.5 + 2) / 4]


def compared(before: dict[str, Any], after: dict[str, Any], **rest: Any) -> Comparison:
    sides = [{name: np.array(x, float) for name, x in side.items()} for side in (before, after)]
    prompts, samples = sides[0]["score"].shape
    texts, names = [["a"] * samples] * prompts, [f"sample {i + 1}" for i in range(samples)]
    names = rest.get("names", names)
    return Comparison(
        [""] * prompts, [""] * prompts, names, *(Answers(texts, side) for side in sides)
    )


SCORES = [[9, 1, 2], [9, 4, 3]]  # the first column is greedy
BEFORE = {
    "score": SCORES,
    "toxicity": [[0, 0.8, 0.2], [0, 0.4, 0.6]],
    "rougeL": [[0, 0.1, 0.3], [NAN, NAN, NAN]],
    "nll": [[0, 4, 2], [0, 3, 8]],
    "nll_tokens": [[0, 2, 1], [0, 3, 4]],
}
AFTER = {
    "score": [[9, 2, 3], [9, 3, 3]],
    "toxicity": [[0, 0.4, 0.4], [0, 0.4, 0.4]],
    "kl": [[NAN, 1, 2], [NAN, 3, 2]],
}
NAMES = {"names": ["greedy", "sample 1", "sample 2"]}


def values(entries: dict[str, Any]) -> dict[str, float]:
    return {name: x["value"] if isinstance(x, dict) else x for name, x in entries.items()}


@pytest.mark.parametrize("own", [None, [[NAN, 0.5, 1], [NAN, 0.1, 0.4]]], ids=["exact", "narrow"])
def test_every_figure_by_hand(own: Any) -> None:
    """Before training, samples may be away from the reference: the second and the first are."""
    before = BEFORE if own is None else {**BEFORE, "kl": own}
    found = against_best_of(compared(before, AFTER, **NAMES), seed=0)
    assert found is not None
    one, two = map(values, found["points"])
    bound = math.log(2) - 0.5
    sampler = (0, 0) if own is None else (0.5, (1 + 0.1) / 2)
    assert (one["n"], two["n"]) == (1, 2)
    assert (one["toxicity"], two["toxicity"]) == pytest.approx((0.5, 0.3))
    assert (one["score"], two["score"]) == pytest.approx((2.5, 3))
    assert (one["rougeL"], two["rougeL"]) == pytest.approx((0.2, 0.3))
    perplexities = math.exp(17 / 10), math.exp((2 + 3) / (1 + 3))
    assert (one["perplexity"], two["perplexity"]) == pytest.approx(perplexities)
    assert (one["kl"], two["kl"]) == pytest.approx((sampler[0], bound + sampler[1]))
    n = values(found["effective_n"])
    # .4 lies halfway between .5 and .3, 2.75 between 2.5 and 3
    assert n == pytest.approx({"toxicity": math.sqrt(2), "score": math.sqrt(2)})
    price = best_of_kl(np.array(math.sqrt(2)))
    assert values(found["kl_ratio"])["toxicity"] == pytest.approx((2 - sampler[0]) / price)
    # 2 and 3 against 1 and 2; 3 and 3 against 4 and 3
    assert found["win_rate"]["value"] == pytest.approx((3.5 / 4 + 1 / 4) / 2)


def test_beyond_the_samples_there_is_no_number() -> None:
    better = {**AFTER, "toxicity": np.zeros((2, 3)), "score": np.zeros((2, 3))}
    found = against_best_of(compared(BEFORE, better, **NAMES), seed=0)
    assert found is not None
    assert found["effective_n"]["toxicity"] == {"value": None, "low": None, "high": None}
    assert values(found["kl_ratio"])["toxicity"] == pytest.approx(2 / best_of_kl(np.array(2.0)))
    assert found["effective_n"]["score"]["value"] == 1  # worse than a single sample
    assert found["kl_ratio"]["score"]["value"] is None


def test_what_training_was_worth_is_logged_as_far_as_it_is_known() -> None:
    """An n beyond the samples isn't, and nothing is of a single sample."""
    logged = to_log(compared(BEFORE, AFTER, **NAMES), seed=0)
    found = against_best_of(compared(BEFORE, AFTER, **NAMES), seed=0)
    assert found is not None
    assert logged["test/effective_n/toxicity"] == pytest.approx(math.sqrt(2))
    assert logged["test/kl_ratio/score"] == found["kl_ratio"]["score"]["value"]
    assert logged["test/win_rate"] == found["win_rate"]["value"]
    assert logged["test/greedy/before/score"] == 9
    better = {**AFTER, "toxicity": np.zeros((2, 3)), "score": np.zeros((2, 3))}
    worth = {"effective_n/score", "kl_ratio/toxicity", "win_rate"}
    after = to_log(compared(BEFORE, better, **NAMES), seed=0)
    assert {name.removeprefix("test/") for name in after if "after" not in name} >= worth
    assert not {"test/effective_n/toxicity", "test/kl_ratio/score"} & after.keys()
    one = {name: np.array(x)[:, 1:2] for name, x in BEFORE.items()}
    alone = to_log(compared(one, {**one, "kl": one["score"]}), seed=0)
    assert "test/win_rate" not in alone


def test_one_sample_is_no_choice_and_one_prompt_has_no_interval() -> None:
    one = {name: np.array(x)[:, 1:2] for name, x in BEFORE.items()}
    assert against_best_of(compared(one, {**one, "kl": one["score"]}), seed=0) is None
    greedy = compared(BEFORE, AFTER, names=["greedy"] * 3)
    assert against_best_of(greedy, seed=0) is None
    alone = [{k: np.array(x)[:1] for k, x in side.items()} for side in (BEFORE, AFTER)]
    found = against_best_of(compared(*alone, **NAMES), seed=0)
    assert found is not None
    assert found["win_rate"] == {"value": 0.875, "low": None, "high": None}


@pytest.mark.parametrize("odd", [NAN, -np.inf])
def test_a_judge_without_numbers_judges_nothing(odd: float) -> None:
    """The sample without a score is the last that is chosen."""
    odd_score = {**BEFORE, "score": [[9, odd, 2], [9, 4, odd]]}
    found = against_best_of(compared(odd_score, AFTER, **NAMES), seed=0)
    assert found is not None
    assert list(found["effective_n"]) == ["toxicity"]
    assert found["points"][1]["toxicity"]["value"] == pytest.approx((0.2 + 0.4) / 2)
    nothing = {**odd_score, "toxicity": odd_score["score"]}
    assert against_best_of(compared(nothing, AFTER, **NAMES), seed=0) is None


def uniform(n: int, seed: int, prompts: int = 200, samples: int = 8) -> Comparison:
    """Scores without a favourite; the policy gives the best of n of them, at its KL."""
    rng = np.random.default_rng(seed)
    before, after = rng.uniform(size=(2, prompts, samples, n))
    sides = before[:, :, 0], after.max(axis=2)
    kl = np.full((prompts, samples), 2 * math.log(n) - 2 * (n - 1) / n)
    first, second = ({"score": x, "toxicity": 1 - x} for x in sides)
    return compared(first, {**second, "kl": kl})


def test_of_uniform_scores_the_best_of_n_is_worth_n() -> None:
    """And the best of n wins n of n + 1 pairs; its KL is planted twice as high as it need be."""
    for n in (1, 3, 5):
        found = against_best_of(uniform(n, seed=1), seed=0)
        assert found is not None
        for judge in ("toxicity", "score"):
            worth = found["effective_n"][judge]
            assert worth["low"] <= n <= worth["high"], (n, worth)
            assert worth["value"] == pytest.approx(n, rel=0.15)
        assert found["win_rate"]["value"] == pytest.approx(n / (n + 1), abs=0.03)
    assert found["kl_ratio"]["toxicity"]["value"] == pytest.approx(2, rel=0.15)


@pytest.mark.slow
def test_intervals_cover_the_n_in_95_of_100() -> None:
    """60 simulations: 95 % of them give or take three standard errors."""
    found = [against_best_of(uniform(4, seed, prompts=60), seed) for seed in range(60)]
    ends = [each["effective_n"]["score"] for each in found if each is not None]
    covered = np.mean([x["low"] <= 4 <= (x["high"] or math.inf) for x in ends])
    assert covered == pytest.approx(0.95, abs=0.085)

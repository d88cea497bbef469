"""The multiplier of a limit, by hand."""

from typing import Any

import pytest
import torch

from algorithm.test_metrics import ROLLOUT
from detox_lightning.algorithm.constraint import PATIENCE, Constraint, Multiplier
from detox_lightning.errors import InputError

PARTS = {"rougeL": torch.tensor([0.25, 0.75])}


def figures(mean: float, std: float = 0.5) -> dict[str, float]:
    return {"objective/constraint": mean, "objective/constraint_std": std}


def multiplier(value: float = 0.0, **options: Any) -> Multiplier:
    made = Multiplier(Constraint(**{"at_least": 0.6, "rate": 0.1, **options}))
    made.value = value
    return made


@pytest.mark.parametrize(
    ("limit", "mean", "value", "expected"),
    [
        # the unit is (2 + 0.5) / 0.5 = 5; 0.1 of it for a mean that is a standard deviation off
        ({"at_least": 0.6}, 0.5, 1.0, 1.0 + 5 * 0.1 * 0.2),
        ({"at_least": 0.6}, 0.7, 1.0, 1.0 - 5 * 0.1 * 0.2),
        ({"at_most": 0.6}, 0.7, 1.0, 1.0 + 5 * 0.1 * 0.2),
        ({"at_most": -0.2}, -0.3, 1.0, 1.0 - 5 * 0.1 * 0.2),
        ({"at_least": 0.6}, -9.0, 1.0, 1.0 + 5 * 0.1),  # no further than for one deviation
        ({"at_least": 0.6}, 0.9, 0.1, 0.0),  # never below 0
        ({"at_least": 0.6, "most": 0.3}, 0.5, 1.45, 5 * 0.3),
    ],
)
def test_a_step(limit: dict[str, float], mean: float, value: float, expected: float) -> None:
    made = multiplier(value, **{"at_least": None, **limit})
    assert made.update(figures(mean), score_std=2.0, kl_coef=0.5) is None
    assert made.value == pytest.approx(expected, abs=1e-12)


def test_units_of_score_and_measure_make_no_difference() -> None:
    """A score in hundredths, and a measure in tenths, make a multiplier of ten times less."""
    plain, other = multiplier(), multiplier(at_least=6.0)
    for mean in (0.1, 0.5, 0.3, 0.9):
        plain.update(figures(mean), 2.0, 0.5)
        other.update(figures(10 * mean, 5.0), 200.0, 50.0)
        assert other.value == pytest.approx(10 * plain.value, rel=1e-12)
    assert plain.value > 0


def test_a_rollout_without_spread_is_no_leap() -> None:
    """A unit of millions would be one."""
    made = multiplier()
    made.update(figures(0.5), 2.0, 0.5)
    before = made.value
    made.update(figures(0.5999, 1e-6), 2.0, 0.5)
    assert made.value == pytest.approx(before + 2 * 5 * 0.1)


@pytest.mark.parametrize(
    ("limit", "expected"), [({"at_least": 0.1}, 3.0), ({"at_least": None, "at_most": 0.9}, 0.0)]
)
def test_a_limit_from_the_other_side_begins_anew(limit: dict[str, Any], expected: float) -> None:
    state = multiplier(3.0).state()
    made = multiplier(**limit)
    made.load(state)
    assert made.value == expected


def test_where_all_measure_the_same_nothing_moves() -> None:
    made = multiplier(3.0)
    for std in (0.0, 1e-8):
        made.update(figures(0.2, std), 2.0, 0.5)
    assert (made.value, made.at_bound) == (3.0, 0)


def test_a_limit_that_is_never_met_is_said_once() -> None:
    made = multiplier(most=0.5, rate=1.0)
    near, kept = figures(0.1), figures(0.61)
    said = [made.update(near, 2.0, 0.5) for _ in range(PATIENCE - 1)]
    said.append(made.update(kept, 2.0, 0.5))  # it begins anew
    said += [made.update(near, 2.0, 0.5) for _ in range(2 * PATIENCE)]
    said += [made.update(kept, 2.0, 0.5), *(made.update(near, 2.0, 0.5) for _ in range(PATIENCE))]
    assert [line for line in said if line] == [
        "model.constraint: rougeL is 0.1 where at_least 0.6 is asked for, and the multiplier has "
        "stayed at its bound for 10 rollouts: give a limit that can be met, or a larger "
        "model.constraint.most"
    ]


def test_what_is_charged() -> None:
    made = multiplier(2.0)
    coef, term = made.charge(0.3, made.measured(ROLLOUT, PARTS))
    assert (coef, term.tolist()) == (0.3, [0.5, 1.5])
    made = multiplier(2.0, at_least=None, at_most=0.6)
    assert made.charge(0.3, PARTS["rougeL"])[1].tolist() == [-0.5, -1.5]
    made = multiplier(2.0, measure="kl", at_least=None, at_most=6)
    measured = made.measured(ROLLOUT, {})
    assert measured.tolist() == pytest.approx([0.6, 0.6])  # not that of padding, which is NaN
    assert made.charge(0.3, measured) == (2.3, None)
    made = Multiplier()
    assert made.measured(ROLLOUT, PARTS) is None
    assert made.charge(0.3, None) == (0.3, None)
    assert (made.update({}, 2.0, 0.5), made.metrics()) == (None, {})


def test_a_state_is_of_its_measure() -> None:
    before, after = multiplier(2.0), multiplier()
    before.at_bound = 3
    after.load(before.state())
    assert (after.value, after.at_bound) == (2.0, 3)
    other = multiplier(measure="rouge1")
    for state in (before.state(), Multiplier().state(), None):  # none: a checkpoint of before
        other.load(state)
    assert other.value == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at_least=None, at_most=None: give one of them, the limit of rougeL"),
        ({"at_least": 0.1, "at_most": 0.2}, "at_least=0.1, at_most=0.2: give one of them"),
        ({"measure": "kl", "at_least": 2.0}, "at_least=2.0: the KL divergence is limited from ab"),
    ],
)
def test_limits_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Constraint(**options)


def test_a_part_that_the_reward_lacks() -> None:
    with pytest.raises(InputError, match=r"measure=x: the reward has no such part, but rougeL; gi"):
        multiplier(measure="x").measured(ROLLOUT, PARTS)

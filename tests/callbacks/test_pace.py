"""How fast a run is, and how long it will take."""

from types import SimpleNamespace
from typing import Any

import pytest

from detox_lightning.callbacks import pace
from detox_lightning.callbacks.pace import Pace, duration, speed


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def trainer_of(**options: Any) -> Any:
    """A trainer of one epoch of 20 batches that has done one, and validates after each fifth."""
    processed = SimpleNamespace(current=SimpleNamespace(processed=1))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=processed))
    facts = {"max_steps": -1, "max_epochs": 1, "current_epoch": 0, "num_training_batches": 20}
    validates = {"val_check_batch": 5, "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1}
    return SimpleNamespace(callbacks=[], fit_loop=loop, **{**facts, **validates, **options})


def after_one_rollout(clock: Clock) -> Pace:
    """A validation of 100 seconds and a rollout of 10."""
    found = Pace()
    found.begin(0)
    found.begin_validation()
    clock.now += 100
    found.end_validation()
    clock.now += 10
    return found


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, 19 * 10 + 4 * 100),
        ({"val_check_batch": 20}, 19 * 10 + 100),
        ({"val_check_batch": 20, "check_val_every_n_epoch": 4}, 19 * 10 + 100),
        ({"val_check_batch": None}, 19 * 10),  # validation goes by time
        ({"val_check_batch": float("inf")}, 19 * 10),
        ({"max_steps": 100}, None),  # of the optimizer: how many rollouts that is depends
    ],
)
def test_training_and_validations_take_their_own_time(
    clock: Clock, options: dict[str, Any], left: float | None
) -> None:
    found, stage = after_one_rollout(clock), SimpleNamespace(rollouts=1)
    assert found.seconds_each(1) == 10
    assert found.seconds_left(trainer_of(**options), stage) == left  # type: ignore[arg-type]


def test_a_step_of_several_batches(clock: Clock) -> None:
    trainer = trainer_of(
        global_step=1, estimated_stepping_batches=10, accumulate_grad_batches=2, val_check_batch=6
    )
    stage: Any = SimpleNamespace(rollouts=None)
    assert after_one_rollout(clock).seconds_left(trainer, stage) == 9 * 10 + 3 * 100


def test_before_the_first_rollout_nobody_knows(clock: Clock) -> None:
    found = after_one_rollout(clock)
    found.begin(1)
    assert found.seconds_each(1) is None
    stage: Any = SimpleNamespace(rollouts=1)
    assert found.seconds_left(trainer_of(), stage) is None


def test_all_parts_of_a_run_count(clock: Clock) -> None:
    resumed = Pace()
    resumed.seconds_before = after_one_rollout(clock).seconds
    assert resumed.seconds == 110  # it hasn't begun
    resumed.begin(1)
    clock.now += 30
    assert resumed.seconds == 140
    assert resumed.seconds_each(3) == 15


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (50.4, "50 s"),
        (70, "1 min 10 s"),
        (629, "10 min"),
        (7500, "2 h 5 min"),
        (0, "0 s"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "2.5 steps a second"), (5.12, "5.1 s a step"), (70, "1 min 10 s a step")],
)
def test_speeds(seconds: float, said: str) -> None:
    assert speed(seconds, "step") == said

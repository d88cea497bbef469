"""Warm-up and decay by hand, and flags that win."""

import copy
import math

import pytest
import torch
from torch import nn

from detox_lightning.errors import InputError
from detox_lightning.stages.optimization import Schedule, build_schedule


def rates(schedule: Schedule, total: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_schedule(optimizer, schedule, total)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_constant() -> None:
    assert rates(Schedule(), math.inf, 3) == [1, 1, 1]
    assert rates(Schedule(warmup_steps=3), math.inf, 5) == [0.25, 0.5, 0.75, 1, 1]


def test_linear() -> None:
    assert rates(Schedule("linear"), 4, 4) == [1, 0.75, 0.5, 0.25]
    assert rates(Schedule("linear", 1), 5, 5) == [0.5, 1, 0.75, 0.5, 0.25]
    # Beyond the end it stays at 0.
    assert rates(Schedule("linear"), 2, 4) == [1, 0.5, 0, 0]


def test_cosine() -> None:
    expected = [1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]
    assert rates(Schedule("cosine"), 4, 4) == pytest.approx(expected)


def test_warmup_as_a_share_of_all_steps() -> None:
    share, steps = Schedule("linear", 0.3), Schedule("linear", 3)
    assert rates(share, 10, 10) == rates(steps, 10, 10)
    # A warm-up as long as the training, or longer, is allowed.
    assert rates(Schedule("linear", 4), 4, 4) == [0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("schedule", [Schedule("linear"), Schedule(warmup_steps=0.1)])
def test_shares_need_an_end(schedule: Schedule) -> None:
    with pytest.raises(InputError, match=r"trainer\.max_epochs"):
        rates(schedule, math.inf, 1)


def test_restored_state_gives_way_to_flags_and_to_nothing_else() -> None:
    weight = nn.Parameter(torch.ones(3))

    def build(lr: float, decay: float):
        groups = [{"params": [weight]}, {"params": [nn.Parameter(torch.ones(1))], "lr": 10 * lr}]
        optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=decay)
        return optimizer, build_schedule(optimizer, Schedule("cosine", 2), 7)

    optimizer, scheduler = build(0.1, 0.01)
    for _ in range(4):
        weight.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))

    def restored(lr: float, decay: float):
        optimizer, scheduler = build(lr, decay)
        optimizer.load_state_dict(copy.deepcopy(saved[0]))
        scheduler.load_state_dict(copy.deepcopy(saved[1]))
        return optimizer, scheduler

    same, same_scheduler = restored(0.1, 0.01)
    assert same.state_dict()["param_groups"] == saved[0]["param_groups"]
    assert same_scheduler.state_dict() == saved[1]

    other, other_scheduler = restored(0.2, 0.5)
    for before, after in zip(saved[0]["param_groups"], other.param_groups, strict=True):
        assert after["lr"] == 2 * before["lr"]
        assert after["initial_lr"] == 2 * before["initial_lr"]
        assert after["weight_decay"] == 0.5
    assert torch.equal(other.state[weight]["exp_avg"], saved[0]["state"][0]["exp_avg"])
    other.step()
    other_scheduler.step()
    scheduler.step()
    assert other_scheduler.get_last_lr() == [2 * rate for rate in scheduler.get_last_lr()]

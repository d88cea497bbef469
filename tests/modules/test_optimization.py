"""Warm-up and decay by hand, and flags that win."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from detox_lightning.errors import InputError
from detox_lightning.stages.optimization import Schedule, build_schedule, fuse_steps
from numerics import FLOAT32


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


# -- one kernel for all parameters: on a GPU only, so a CPU, which has such a kernel, stands for it

STEPS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


def stepped(
    kind: Callable[..., Any], count: int, state: Any = None, **options: Any
) -> tuple[torch.Tensor, Any]:
    """A weight after so many steps, with the schedule of a stage; and the optimizer."""
    weight = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = kind([weight], lr=0.1, weight_decay=0.1, **options)
    fuse_steps(optimizer)
    scheduler = build_schedule(optimizer, Schedule(), math.inf)
    if state is not None:
        weight.data, saved, place = copy.deepcopy(state)
        optimizer.load_state_dict(saved)
        scheduler.load_state_dict(place)
    for number in range(count):
        weight.grad = torch.linspace(-number, 2, 7)
        optimizer.step()
        scheduler.step()
    return weight.data, (weight.data, optimizer.state_dict(), scheduler.state_dict())


@pytest.mark.parametrize("kind", STEPS.values(), ids=STEPS)
def test_one_kernel_steps_as_many_do(
    kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, plain_state = stepped(kind, 3)
    assert plain_state[1]["param_groups"][0]["fused"] is None
    further, _ = stepped(kind, 3, plain_state)
    monkeypatch.setattr("detox_lightning.stages.optimization.FUSED_ON", "cpu")
    monkeypatch.setattr(torch, "_foreach_lerp_", None)  # what many kernels would call
    fused, state = stepped(kind, 3)
    assert state[1]["param_groups"][0]["fused"] is True
    torch.testing.assert_close(fused, plain, atol=FLOAT32, rtol=0)
    for saved in (state, plain_state):  # of a GPU and of a CPU
        again, (_, now, _) = stepped(kind, 3, saved)
        assert now["param_groups"][0]["fused"] is True
        torch.testing.assert_close(again, further, atol=FLOAT32, rtol=0)


def test_who_said_how_to_step_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detox_lightning.stages.optimization.FUSED_ON", "cpu")
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2).double())]
    for options in ({"foreach": True}, {"foreach": False}, {"fused": False}):
        optimizer = torch.optim.Adam(weights[:1], **options)
        fuse_steps(optimizer)
        assert optimizer.param_groups[0]["fused"] == options.get("fused")
    others = [torch.optim.Adam(weights), torch.optim.SGD(weights), torch.optim.NAdam(weights)]
    for optimizer in others:
        before = {name: x for name, x in optimizer.param_groups[0].items() if name != "params"}
        fuse_steps(optimizer)
        assert before.items() <= optimizer.param_groups[0].items()

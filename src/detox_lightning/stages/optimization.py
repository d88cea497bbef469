"""Optimizers and learning-rate schedules, and which of their values a checkpoint restores."""

import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat
from lightning.pytorch.cli import OptimizerCallable
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detox_lightning.errors import InputError
from detox_lightning.stages.number_bounds import leaves

LARGEST_OPTION = 1e6  # no step of an optimizer can be so large
FUSED_ON = "cuda"  # where a step is bound by the number of its kernels


@dataclass(frozen=True)
class Schedule:
    """How the learning rate rises and falls.

    Attributes:
        name: What follows the warm-up: ``constant``, or a ``linear`` or ``cosine`` decay to 0.
        warmup_steps: Length of the linear rise: a number of steps, or, below 1, a share of all
            steps. A step is an optimizer step, in PPO a rollout.
    """

    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeFloat = 0


CONSTANT = Schedule()


class _Scheduler(LambdaLR):
    """A scheduler whose flags win over the hyper-parameters that a checkpoint restores.

    Lightning restores schedulers after optimizers. Moments and step counts are then those of the
    checkpoint; learning rate, betas and the like are those of this run's flags, at the restored
    place of the schedule. If the flags are the same, nothing changes, to the last bit.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]):
        others = ("params", "param_names", "initial_lr")
        self._flags = [
            {name: value for name, value in group.items() if name not in others}
            for group in optimizer.param_groups
        ]
        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as LambdaLR's, without this run's flags."""
        return {name: value for name, value in super().state_dict().items() if name != "_flags"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the place of the schedule, and puts this run's flags in the optimizer."""
        super().load_state_dict(state_dict)
        self.base_lrs = [flags["lr"] for flags in self._flags]
        # the same product that the scheduler computed on its last step
        self._last_lr = [
            rate * factor(self.last_epoch)
            for rate, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)
        ]
        groups = zip(self.optimizer.param_groups, self._flags, self._last_lr, strict=True)
        for group, flags, rate in groups:
            group.update({**flags, "initial_lr": flags["lr"], "lr": rate})


def build_schedule(optimizer: Optimizer, schedule: Schedule, total_steps: float) -> LambdaLR:
    """Builds a scheduler; neither its first nor its last step has a learning rate of 0.

    It must be built before a checkpoint restores the optimizer: the optimizer's hyper-parameters
    are those that the flags ask for, and win over the checkpoint's.

    With ``w`` steps of warm-up out of ``T``, step ``i`` has the factor ``(i + 1) / (w + 1)`` up to
    ``w``, where it is 1, and from there ``(T - i) / (T - w)`` (linear) or half a cosine.

    Raises:
        InputError: If a decay, or a warm-up given as a share, has no number of steps to go by.
    """
    is_share = 0 < schedule.warmup_steps < 1
    if math.isinf(total_steps) and (is_share or schedule.name != "constant"):
        raise InputError(
            f"schedule.name={schedule.name}, schedule.warmup_steps={schedule.warmup_steps} need a "
            "training of known length: set trainer.max_epochs or trainer.max_steps."
        )
    warmup = math.floor(schedule.warmup_steps * (total_steps if is_share else 1))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule.name == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
        if schedule.name == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return _Scheduler(optimizer, factor)


def fuse_steps(optimizer: Optimizer) -> None:
    """Lets Adam and AdamW of torch step float32 parameters on a GPU by one kernel for all.

    Other optimizers and devices are left alone, and so is an optimizer whose options ``fused`` or
    ``foreach`` say how to step. The state of a checkpoint is put where this kernel needs it, also
    if another device wrote it.
    """
    groups = optimizer.param_groups
    if type(optimizer) not in (Adam, AdamW) or any(
        group["fused"] is not None
        or group["foreach"] is not None
        or group["differentiable"]
        or any((p.device.type, p.dtype) != (FUSED_ON, torch.float32) for p in group["params"])
        for group in groups
    ):
        return
    for group in groups:  # the constructor's option would forbid Lightning to clip in bf16-mixed
        group["fused"] = True

    def fuse_saved(_: Optimizer, state: dict[str, Any]) -> None:
        state["param_groups"] = [{**group, "fused": True} for group in state["param_groups"]]

    optimizer.register_load_state_dict_pre_hook(fuse_saved)


def trainable_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Returns the parameters that an optimizer gets, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def try_out(make_optimizer: OptimizerCallable, has_closure: bool) -> None:
    """Makes an optimizer of one small matrix, to report mistakes before models are opened.

    Optimizers of torch also take a step, with a closure that computes the loss if ``has_closure``.

    Raises:
        InputError: If the optimizer can't be made or takes no step, or if an option is a number
            that no run can work with.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    with naming_option():
        optimizer = make_optimizer([parameter])
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"--model.optimizer: this makes a {type(optimizer).__name__}, which is no optimizer"
        )
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        for name, value, *_ in leaves(options):
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                value = float(value)
            is_number = isinstance(value, int | float)
            is_small = is_number and abs(value) <= LARGEST_OPTION  # NaN isn't
            if is_number and (not is_small or (name == "lr" and value < 0)):
                raise InputError(
                    f"--model.optimizer.{name}={value}: must be a number up to "
                    f"{LARGEST_OPTION:g}, and a learning rate not below 0"
                )
    if type(optimizer).__module__.startswith("torch.optim"):
        with naming_option():
            optimizer.step(*([lambda: 0.0] if has_closure else []))


@contextmanager
def naming_option() -> Iterator[None]:
    """Turns an optimizer's refusal to be made or to step into an InputError with the flag."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, AssertionError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if option := _refused_option(error):
            raise InputError(
                f"--model.optimizer.{option}: {reason}; give another number"
            ) from error
        raise InputError(
            f"model.optimizer: {reason.rstrip('.')}. Change its options, or give another, such as "
            "torch.optim.AdamW"
        ) from error


def _refused_option(error: Exception) -> str | None:
    """Returns ``name=value`` of the option that an optimizer refused, if the error has the value.

    The name is that of the constructor's argument with this value.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "__init__":
            for name, value in frame.f_locals.items():
                values = value if isinstance(value, list | tuple) else [value]
                if any(type(x) in (int, float) and str(x) in str(error) for x in values):
                    return f"{name}={value}"
    return None

"""Optimizers and learning-rate schedules, and what of them survives in a checkpoint."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detox_lightning.errors import InputError
from detox_lightning.stages.number_bounds import check_optimizer, refused_option


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


def build_schedule(optimizer: Optimizer, schedule: Schedule, total_steps: float) -> LambdaLR:
    """Makes the scheduler; neither its first nor its last step has a learning rate of 0.

    With ``w`` steps of warm-up out of ``T``, step ``i`` has the factor ``(i + 1) / (w + 1)`` up to
    ``w``, where it is 1, and from there ``(T - i) / (T - w)`` (linear) or half a cosine.

    Args:
        optimizer: Whose learning rate it scales.
        schedule: The shape.
        total_steps: Number of steps of the whole training; infinite if it has no end.

    Raises:
        InputError: If a decay, or a warm-up given as a share, has no number of steps to go by.
    """
    share = schedule.warmup_steps < 1
    needs_end = schedule.name != "constant" or (share and schedule.warmup_steps > 0)
    if needs_end and math.isinf(total_steps):
        raise InputError(
            f"schedule.name={schedule.name}, schedule.warmup_steps={schedule.warmup_steps} need a "
            "training of known length: set trainer.max_epochs or trainer.max_steps."
        )
    warmup = schedule.warmup_steps * total_steps if share and needs_end else schedule.warmup_steps
    warmup = math.floor(warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule.name == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
        if schedule.name == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def trainable_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that an optimizer gets, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def configured_hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Notes what the flags asked of a new optimizer, before a schedule or a checkpoint touches it.

    Returns:
        One dictionary a parameter group: ``lr``, ``betas``, ``weight_decay``, …
    """
    ours = ("params", "param_names", "initial_lr")
    return [
        {key: value for key, value in group.items() if key not in ours}
        for group in optimizer.param_groups
    ]


def apply_configured_hyperparameters(
    optimizer: Optimizer,
    schedulers: Iterable[LambdaLR],
    configured: Sequence[dict[str, Any]],
) -> None:
    """Lets the flags win over the hyper-parameters that a checkpoint brought back.

    Moments and step counts stay the checkpoint's; learning rate, betas and the like become those
    of this run, at the schedule's present place. With the same flags nothing changes, to the bit.

    Args:
        optimizer: With its state restored.
        schedulers: Its schedules, with their states restored.
        configured: From :func:`configured_hyperparameters`, of the new optimizer.
    """
    rates = [options["lr"] for options in configured]
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        group.update(options, initial_lr=options["lr"])
    for scheduler in schedulers:
        scheduler.base_lrs = list(rates)
        # The very product that the scheduler itself formed on its last step.
        now = [
            rate * factor(scheduler.last_epoch)
            for rate, factor in zip(rates, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(optimizer.param_groups, now, strict=True):
            group["lr"] = rate
        scheduler._last_lr = now


def try_out(make_optimizer: OptimizerCallable, has_closure: bool) -> None:
    """Makes an optimizer of one small matrix, so that a mistake is told before models open.

    Those of torch also take a step, as the stage will ask them to.

    Args:
        make_optimizer: See :class:`StepwiseOptimization`.
        has_closure: Whether the stage gives each step a function that computes the loss.

    Raises:
        InputError: If it can't be made, an option is no number that any run can work with, or it
            takes no step.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    with told():
        optimizer = make_optimizer([parameter])
    check_optimizer(optimizer)
    if type(optimizer).__module__.startswith("torch.optim"):
        with told():
            optimizer.step(*([lambda: 0.0] if has_closure else []))


@contextmanager
def told() -> Iterator[None]:
    """Names the flag where an optimizer refuses to be made or to step.

    Raises:
        InputError: If it does.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, AssertionError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if option := refused_option(error):
            raise InputError(
                f"--model.optimizer.{option}: {reason}; give another number"
            ) from error
        raise InputError(
            f"model.optimizer: {reason.rstrip('.')}. Change its options, or give another, such as "
            "torch.optim.AdamW"
        ) from error


class StepwiseOptimization:
    """Optimizer and schedule of a stage; in PPO the stage itself steps it, once a rollout."""

    def __init__(self, make_optimizer: OptimizerCallable, schedule: Schedule):
        """Notes the settings.

        Args:
            make_optimizer: Makes the optimizer of the parameters that learn.
            schedule: How its learning rate rises and falls.
        """
        self.make_optimizer = make_optimizer
        self.schedule = schedule
        self.configured: list[dict[str, Any]] = []

    def configure(self, module: LightningModule) -> OptimizerLRScheduler:
        """What the module's ``configure_optimizers`` returns.

        Raises:
            InputError: If the optimizer refuses these parameters.
        """
        with told():
            optimizer = self.make_optimizer(trainable_parameters(module))
        self.configured = configured_hyperparameters(optimizer)
        steps = module.trainer.estimated_stepping_batches
        scheduler = build_schedule(optimizer, self.schedule, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def let_flags_win(self, module: LightningModule) -> None:
        """What the module's ``on_train_start`` does, after a checkpoint has been restored."""
        trainer = module.trainer
        schedulers: Any = [config.scheduler for config in trainer.lr_scheduler_configs]
        apply_configured_hyperparameters(trainer.optimizers[0], schedulers, self.configured)

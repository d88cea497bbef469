"""What every stage asks of its trainer before any model is opened, and what it sets right there."""

import math
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.models.precision import check_precision
from detox_lightning.protocols import data_of
from detox_lightning.stages.optimization import try_out
from detox_lightning.stages.refused_callbacks import are_known, callbacks_of, refuse_callbacks

IN_PPO = {
    "gradient_clip_val": "Give model.max_grad_norm",
    "accumulate_grad_batches": "Responses of an optimizer step are model.mini_batch_size, of a "
    "forward pass model.micro_batch_size: give these",
}
BOUNDS = {
    "fit": ("limit_train_batches", "max_epochs", "max_steps"),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}
DONE = {"fit": "trained", "validate": "measured", "test": "measured", "predict": "predicted"}
NOTHING = "trainer.{}={}: nothing would be {}; give more, or leave it out"


def check_conditions(module: Any, stage: str, figures: Collection[str]) -> None:
    """Refuses what can't work, and lowers what the data is too small for.

    Args:
        module: A stage's, with its trainer.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        figures: What its validation logs, without ``val/``.

    Raises:
        InputError: If the precision loses steps, or a callback or the optimizer can't work.
    """
    trainer = module.trainer
    check_precision(trainer.precision)
    refuse_nothing(trainer, stage)
    if stage != "fit":
        return
    check_loop(trainer, module)
    data = data_of(trainer)
    validates = None if data is None else bool(data.val_dataloader())
    check_monitors(module, validates, [f"val/{name}" for name in figures])
    try_out(module.optimization.make_optimizer, module.automatic_optimization)
    if data is not None:
        batches = len(data.train_dataloader())
        limit = trainer.limit_train_batches
        share = math.floor(batches * limit) if isinstance(limit, float) else min(batches, limit)
        if batches and not share:
            raise InputError(NOTHING.format("limit_train_batches", limit, "trained"))
        fit_interval(trainer, share, bool(validates))
    if trainer.fast_dev_run:  # it counts batches, and Lightning optimizer steps
        trainer.fit_loop.epoch_loop.max_steps = -1


def check_loop(trainer: Trainer, module: LightningModule) -> None:
    """Refuses callbacks and flags of Lightning's loop that can't do what they say.

    Args:
        trainer: What is asked.
        module: What it would train.

    Raises:
        InputError: If there is one.
    """
    refuse_callbacks(trainer, module.automatic_optimization)
    if module.automatic_optimization:
        return
    defaults = {"gradient_clip_val": (None, 0), "accumulate_grad_batches": (1,)}
    for name, remedy in IN_PPO.items():
        if (value := getattr(trainer, name)) not in defaults[name]:
            raise InputError(f"trainer.{name}={value}: PPO takes its own steps. {remedy}")


def refuse_nothing(trainer: Trainer, stage: str) -> None:
    """Refuses a run that would end at once, and would look as if it had done something.

    Args:
        trainer: Its bounds are looked at.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        InputError: If a bound is 0.
    """
    bounds: dict[str, Any] = {name: getattr(trainer, name) for name in BOUNDS[stage]}
    if stage == "fit":
        for timer in callbacks_of(trainer):
            if isinstance(timer, Timer):
                bounds["max_time"] = timer._duration
    for name, bound in bounds.items():
        if bound == 0:
            raise InputError(NOTHING.format(name, bound, DONE[stage]))


def check_monitors(module: Any, validates: bool | None, figures: Collection[str]) -> None:
    """Refuses callbacks that wait for a figure that no validation logs.

    Only where all that logs is this package's or Lightning's.

    Args:
        module: With its trainer.
        validates: Whether there are validation rows; None: nobody knows.
        figures: Names of what validation logs.

    Raises:
        InputError: If there is one.
    """
    callbacks = callbacks_of(module.trainer)
    if validates is None or not are_known([module, *callbacks]):
        return
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if not isinstance(name, str) or not name.startswith("val") or name in figures:
            continue
        near = get_close_matches(name.replace("val_", "val/"), figures, 1, cutoff=0.8)
        meant = f"did you mean {near[0]}?" if near else f"give one of {', '.join(figures)}"
        raise InputError(
            f"monitor={name} ({type(callback).__name__}): validation logs no such figure; {meant}"
        )
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if name in figures and not validates:
            raise InputError(
                f"monitor={name} ({type(callback).__name__}): no validation would log it; give "
                "data.validation_split, or another figure"
            )


def fit_interval(trainer: Trainer, batches: int, validates: bool) -> None:
    """Lowers an interval between validations that is longer than an epoch, and says so.

    Args:
        trainer: Its ``val_check_interval`` and ``check_val_every_n_epoch`` are looked at.
        batches: Of an epoch.
        validates: Whether there are validation rows: if not, nothing is said.
    """
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    interval: Any = getattr(trainer, "val_check_interval", None)  # None: it comes by the clock
    is_long = isinstance(interval, int) and interval > batches
    if every is not None and is_long:
        trainer.val_check_interval = 1.0
        if validates:
            rank_zero_warn(
                f"trainer.val_check_interval={interval} is more than an epoch's batches "
                f"({batches}): validation comes after each epoch instead"
            )
    if not validates or not epochs or epochs < 0:
        return
    if every is None and interval is None:
        return
    never = every > epochs if every is not None else interval > batches * epochs
    if never:
        flag = "val_check_interval" if every is None else "check_val_every_n_epoch"
        rank_zero_warn(
            f"trainer.{flag}={interval if every is None else every}: the run ends before its first "
            f"validation (trainer.max_epochs={epochs}, batches of an epoch: {batches})"
        )

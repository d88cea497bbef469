"""Checks of a run's trainer and data before any model is opened, shared by all stages."""

import math
from collections.abc import Collection
from typing import Any

from lightning.pytorch import LightningModule, Trainer, callbacks
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from detox_lightning.errors import InputError, nearest
from detox_lightning.models.precision import check_precision
from detox_lightning.protocols import callbacks_of, data_of
from detox_lightning.runs.checkpoint_reading import blame_checkpoint, open_checkpoint
from detox_lightning.stages.devices import check_accelerator
from detox_lightning.stages.flag_changes import refuse_trained_rows
from detox_lightning.stages.optimization import try_out

# Flags of Lightning's own steps: their defaults, and what to give instead in PPO.
NOT_IN_PPO: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_clip_val": ((None, 0), "Give model.max_grad_norm"),
    "accumulate_grad_batches": (
        (1,),
        "Responses of an optimizer step are model.mini_batch_size, of a forward pass "
        "model.micro_batch_size: give these",
    ),
}
_AVERAGING = "Give detox_lightning.callbacks.averaging.AveragingCallback"
# Lightning's callbacks that would do something else here than they say: the reason, the remedy.
REFUSED: dict[type, str] = {
    callbacks.BatchSizeFinder: "it would try sizes that the data never gets. Give data.batch_size, "
    "data.eval_batch_size and model.micro_batch_size; docs/memory.md says what fits",
    callbacks.LearningRateFinder: "it would train beside model.schedule. Try a few values of "
    "model.optimizer.lr, with a short trainer.limit_train_batches each",
    callbacks.StochasticWeightAveraging: "it would take model.schedule's place, and average the "
    f"frozen weights, too. {_AVERAGING}",
    callbacks.WeightAveraging: "it would copy and average the frozen weights and whole numbers, "
    f"too, and can't resume from a checkpoint. {_AVERAGING}",
    callbacks.GradientAccumulationScheduler: "model.schedule must know how many steps there are. "
    "Give trainer.accumulate_grad_batches; in PPO model.mini_batch_size and model.micro_batch_size",
    callbacks.ModelPruning: "it gives the weights other names, which no checkpoint or export here "
    "knows. Prune the model that is exported",
    callbacks.BaseFinetuning: "it freezes a part named backbone, which no model here has. "
    "model.lora says what learns (null: everything)",
    callbacks.OnExceptionCheckpoint: "it saves in the middle of a batch, from where no run can "
    "resume exactly. Give checkpoint.every_n_batches",
}
REFUSED_IN_PPO: dict[type, str] = {
    callbacks.SpikeDetection: "a rollout has no loss of its own. Rollouts that aren't finite are "
    "left out (model.max_faults), and collapse.* watches the others",
}
# By verb: the flags that bound a run, and what a bound of 0 would leave undone.
BOUNDS = {
    "fit": (("limit_train_batches", "max_epochs", "max_steps"), "trained"),
    "validate": (("limit_val_batches",), "measured"),
    "test": (("limit_test_batches",), "measured"),
    "predict": (("limit_predict_batches",), "predicted"),
}
NOTHING = "trainer.{}={}: nothing would be {}; give more, or leave it out"


def check_conditions(module: Any, verb: str, figures: Collection[str]) -> None:
    """Refuses flags that can't work, and lowers intervals that are longer than the data.

    Args:
        module: A stage, with its trainer.
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        figures: Names of the figures that its validation logs, without ``val/``.

    Raises:
        InputError: If the precision loses steps, the device is an Apple GPU, nothing would be done,
            rows to measure may have been trained on, or a callback or the optimizer can't work.
    """
    trainer = module.trainer
    check_precision(trainer.precision)
    if trainer.strategy.root_device.type == "mps":  # another program's trainer chose it
        check_accelerator("mps")
    refuse_nothing(trainer, verb)
    if file := getattr(trainer, "checkpoint", None):  # Lightning opens it after the model
        with blame_checkpoint(file):
            refuse_trained_rows(trainer, open_checkpoint(file))
    if verb != "fit":
        return
    check_loop(trainer, module)
    suggest_bfloat16(module)
    try_out(module.make_optimizer, module.automatic_optimization)
    if (data := data_of(trainer)) is not None:
        validates = bool(data.val_dataloader())
        _check_monitors(module, validates, [f"val/{name}" for name in figures])
        batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
        used = math.floor(batches * limit) if isinstance(limit, float) else min(batches, limit)
        if batches and not used:
            raise InputError(NOTHING.format("limit_train_batches", limit, "trained"))
        _fit_interval(trainer, used, validates)
    if trainer.fast_dev_run:  # it counts batches, and Lightning optimizer steps
        trainer.fit_loop.epoch_loop.max_steps = -1


def suggest_bfloat16(module: Any) -> None:
    """Says how a frozen base would be smaller, where a GPU rounds it to bfloat16 at each use."""
    weights, trainer = module.weights, module.trainer
    is_rounded = trainer.precision == "bf16-mixed" and trainer.strategy.root_device.type == "cuda"
    if (
        is_rounded
        and weights.dtype == "float32"
        and not weights.quantization
        and module.has_adapter
    ):
        rank_zero_info(
            "trainer.precision=bf16-mixed rounds the frozen float32 base at each use: add --config "
            "configs/overlays/bf16.yaml, which holds it in bfloat16 and half the memory"
        )


def check_loop(trainer: Trainer, module: LightningModule) -> None:
    """Raises an InputError for callbacks and flags of Lightning's loop that can't work here."""
    is_ppo = not module.automatic_optimization
    refused = {**REFUSED, **(REFUSED_IN_PPO if is_ppo else {})}
    for callback in callbacks_of(trainer):
        for kind, reason in refused.items():
            if isinstance(callback, kind):
                raise InputError(f"trainer.callbacks: {type(callback).__name__}: {reason}")
    for name, (defaults, remedy) in NOT_IN_PPO.items() if is_ppo else ():
        if (value := getattr(trainer, name)) not in defaults:
            raise InputError(f"trainer.{name}={value}: PPO takes its own steps. {remedy}")


def refuse_nothing(trainer: Trainer, verb: str) -> None:
    """Raises an InputError if a run would end at once, as one of its bounds is 0."""
    names, done = BOUNDS[verb]
    bounds: list[tuple[str, Any]] = [(name, getattr(trainer, name)) for name in names]
    if verb == "fit":
        timers = [timer for timer in callbacks_of(trainer) if isinstance(timer, callbacks.Timer)]
        bounds += [("max_time", timer._duration) for timer in timers]
    for name, bound in bounds:
        if bound == 0:
            raise InputError(NOTHING.format(name, bound, done))


def _check_monitors(module: Any, validates: bool, figures: Collection[str]) -> None:
    """Refuses callbacks that monitor a figure which no validation logs.

    Checks only where everything that logs is this package's or Lightning's.
    """
    present = callbacks_of(module.trainer)
    packages = {type(one).__module__.partition(".")[0] for one in (module, *present)}
    if not packages <= {"detox_lightning", "lightning"}:
        return
    for callback in present:
        name = getattr(callback, "monitor", None)  # of whatever class of Lightning's
        if not isinstance(name, str) or not name.startswith("val"):
            continue
        if name not in figures:
            hint = nearest(name.replace("val_", "val/"), figures)
            reason = "validation logs no such figure"
            reason += hint or f"; give one of {', '.join(figures)}"
        elif not validates:
            reason = "no validation would log it; give data.validation_split, or another figure"
        else:
            continue
        raise InputError(f"monitor={name} ({type(callback).__name__}): {reason}")


def _fit_interval(trainer: Trainer, batches: int, validates: bool) -> None:
    """Lowers an interval between validations that is longer than an epoch, with a warning.

    Also warns if a run would end before its first validation. Without validation rows it is silent.
    """
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    interval: Any = getattr(trainer, "val_check_interval", None)  # absent: it goes by the clock
    if every is not None and isinstance(interval, int) and interval > batches:
        trainer.val_check_interval = 1.0
        if validates:
            rank_zero_warn(
                f"trainer.val_check_interval={interval} is more than an epoch's batches "
                f"({batches}): validation comes after each epoch instead"
            )
    if not validates or not epochs or epochs < 0 or (every is None and interval is None):
        return
    flag, value, end = "val_check_interval", interval, batches * epochs
    if every is not None:
        flag, value, end = "check_val_every_n_epoch", every, epochs
    if value > end:
        rank_zero_warn(
            f"trainer.{flag}={value}: the run ends before its first validation "
            f"(trainer.max_epochs={epochs}, batches of an epoch: {batches})"
        )

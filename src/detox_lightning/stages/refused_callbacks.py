"""Refuses Lightning's callbacks that would do something else here than they say."""

from collections.abc import Iterable

from lightning.pytorch import Trainer, callbacks

from detox_lightning.errors import InputError
from detox_lightning.protocols import callbacks_of

AVERAGING = "Give detox_lightning.callbacks.averaging.AveragingCallback"
# by class: the reason, and the remedy
REFUSED: dict[type, str] = {
    callbacks.BatchSizeFinder: "it would try sizes that the data never gets. Give data.batch_size, "
    "data.eval_batch_size and model.micro_batch_size; docs/memory.md says what fits",
    callbacks.LearningRateFinder: "it would train beside model.schedule. Try a few values of "
    "model.optimizer.lr, with a short trainer.limit_train_batches each",
    callbacks.StochasticWeightAveraging: "it would take model.schedule's place, and average the "
    f"frozen weights, too. {AVERAGING}",
    callbacks.WeightAveraging: "it would copy and average the frozen weights and whole numbers, "
    f"too, and can't go on from a checkpoint. {AVERAGING}",
    callbacks.GradientAccumulationScheduler: "model.schedule must know how many steps there are. "
    "Give trainer.accumulate_grad_batches; in PPO model.mini_batch_size and model.micro_batch_size",
    callbacks.ModelPruning: "it gives the weights other names, which no checkpoint or export here "
    "knows. Prune the model that is exported",
    callbacks.BaseFinetuning: "it freezes a part named backbone, which no model here has. What "
    "learns is said by model.lora (null: all)",
    callbacks.OnExceptionCheckpoint: "what it saves is from within a batch, and nothing could go "
    "on from it exactly. Give checkpoint.every_n_batches",
}
REFUSED_IN_PPO: dict[type, str] = {
    callbacks.SpikeDetection: "a rollout has no loss of its own. Rollouts that aren't finite are "
    "left out (model.max_faults), and collapse.* watches the others",
}


def refuse_callbacks(trainer: Trainer, has_loss: bool) -> None:
    """Refuses callbacks that can't do what they say, before any model is opened.

    Args:
        trainer: The trainer with its callbacks.
        has_loss: Whether a training step gives Lightning a loss, as all but PPO's do.

    Raises:
        InputError: If there is one.
    """
    refused = REFUSED if has_loss else {**REFUSED, **REFUSED_IN_PPO}
    for callback in callbacks_of(trainer):
        for kind, reason in refused.items():
            if isinstance(callback, kind):
                raise InputError(f"trainer.callbacks: {type(callback).__name__}: {reason}")


def are_known(things: Iterable[object]) -> bool:
    """Returns whether modules and callbacks are this package's or Lightning's own.

    What they log is then known.
    """
    packages = {type(thing).__module__.partition(".")[0] for thing in things}
    return packages <= {"detox_lightning", "lightning"}

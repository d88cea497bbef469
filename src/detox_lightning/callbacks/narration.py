"""Says what a run does, how far it is, what it has reached and what to do next."""

import time
from math import isfinite
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.protocols import Stage, as_stage, callbacks_of
from detox_lightning.runs.provenance import command_of, shell_line
from detox_lightning.runs.run_folders import folder_of, is_trial, log_folder
from detox_lightning.stages.flag_changes import measures_alike

SECONDS_BETWEEN_LINES = 60  # if there is no progress bar
# validation's figures: the first that a stage has is the one that it trains for
FIGURES = {
    "toxicity": ("toxicity", ".3f"),
    "second_toxicity": ("second toxicity", ".3f"),
    "loss": ("loss", ".3f"),
    "spearman": ("Spearman", ".3f"),
    "auroc": ("AUROC", ".3f"),
    "f1": ("F1", ".3f"),
    "rougeL": ("ROUGE-L", ".3f"),
    "score": ("score", ".2f"),
    "kl": ("KL", ".2f"),
    "length": ("length", ".1f"),
}
BAR = {"score": "score", "kl": "KL", "train/loss": "loss"}  # the same of the progress bar's


class NarrationCallback(Callback):
    """Prints lines for people, the same ones in a terminal and in a log file.

    At the start: the run's folder and its number of rollouts (or steps). After the first rollout
    and each validation: progress, figures and the time left. At the end: the figures before and
    after training (without validation, the last rollout's), and the next commands. Without a
    progress bar, there is also a line a minute.
    """

    def __init__(self) -> None:
        self.baseline: dict[str, float] = {}
        self.newest: dict[str, float] = {}
        self.first_done = 0
        self.has_told_pace = False
        self.begun = self.told = 0.0
        self.folder: Path | None = None
        self.has_ended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shortens the figures beside Lightning's progress bar, which wrap in 80 columns."""
        bar = trainer.progress_bar_callback
        if type(bar) in (RichProgressBar, TQDMProgressBar):  # others choose their own
            vars(bar)["get_metrics"] = _bar_figures

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where the run's files go, and how much there is to do."""
        stage = as_stage(pl_module)
        if stage is None:
            return
        self.begun = self.told = time.monotonic()
        self.first_done, self.has_told_pace = _done(trainer, stage), False
        if not is_trial(trainer):
            self.folder = log_folder(trainer)
            rank_zero_info(f"The run's folder is {self.folder}")
        if total := _total(trainer, stage):
            left = total - self.first_done
            rank_zero_info(f"{left:,} {_unit(stage)}{'' if left == 1 else 's'} to do")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far the run is and what the validation found."""
        stage = as_stage(pl_module)
        if stage is None or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        self.newest = {
            name: float(metrics[f"val/{name}"]) for name in FIGURES if f"val/{name}" in metrics
        }
        if _done(trainer, stage) == 0:
            self.baseline = self.newest
            self.begun = time.monotonic()  # one more validation than training will have
        self._tell(trainer, stage, self._figures(list(self.newest)[:1]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Says how long it will take, and, without a progress bar, now and then how far it is.

        This comes before a batch: a validation after the batch before has said as much already.
        """
        stage = as_stage(pl_module)
        if stage is None:
            return
        is_first = not self.has_told_pace and _done(trainer, stage) > self.first_done
        is_due = time.monotonic() - self.told > SECONDS_BETWEEN_LINES
        if is_first or (is_due and trainer.progress_bar_callback is None):
            self._tell(trainer, stage, _of_training(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that training has come to its end."""
        self.has_ended = as_stage(pl_module) is not None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Says what training has changed, and what to do next: after all else is written."""
        if not self.has_ended or stage != "fit":
            return
        self.has_ended = False
        if (bar := trainer.progress_bar_callback) is not None:
            bar.teardown(trainer, pl_module, stage)  # it would break long lines, once more is fine
        title = "Last validation" if self.newest else f"Last {_unit(pl_module)}"
        if self.baseline and self.newest and self.baseline is not self.newest:
            title = "Validation before → after"
        if figures := self._figures(list(self.newest)) or _of_training(trainer):
            rank_zero_info(f"{title}: {' · '.join(figures)}")
        for line in self._next_commands(trainer):
            rank_zero_info(line)

    def state_dict(self) -> dict[str, Any]:
        """Returns the figures before training, which a resumed run compares with."""
        return {"baseline": self.baseline}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores the figures before training if they are numbers, and compare with this run's."""
        kept = dict(checkpoint["callbacks"].get(self.state_key, {}).get("baseline") or {})
        numbers = {name: float(x) for name, x in kept.items() if isinstance(x, float | int)}
        self.baseline = numbers if measures_alike(pl_module, checkpoint) else {}

    def _tell(self, trainer: Trainer, stage: Stage, figures: list[str]) -> None:
        """Prints progress, figures and the time left in one line."""
        done, total = _done(trainer, stage), _total(trainer, stage)
        progress = f"{_unit(stage)} {done:,}" + (f" of {total:,}" if total else "")
        parts, now = [progress, *figures], time.monotonic()
        if total and self.first_done < done < total:
            pace = (now - self.begun) / (done - self.first_done)
            parts.append(f"about {duration(pace * (total - done))} left")
        self.told, self.has_told_pace = now, self.has_told_pace or done > self.first_done
        rank_zero_info(" · ".join(parts))

    def _figures(self, compared: list[str]) -> list[str]:
        """Describes the newest figures; those in ``compared`` with their value before training."""
        described = []
        for name, value in self.newest.items():
            label, form = FIGURES[name]
            text = format(value, form)
            if name in compared and self.baseline is not self.newest and name in self.baseline:
                text = f"{self.baseline[name]:{form}} → {text}"
            described.append(f"{label} {text}")
        return described

    def _next_commands(self, trainer: Trainer) -> list[str]:
        """Returns lines with the commands that evaluate the run and show its curves."""
        lines = []
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        if self.folder is not None and last and command_of(trainer) is not None:
            is_here = folder_of(Path(last)) == self.folder  # with its configuration
            config = [] if is_here else ["--config", str(self.folder / "config.yaml")]
            words = ["test", *config, "--ckpt_path", str(self.folder) if is_here else last]
            lines.append(f"Evaluate it: {shell_line(words)}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not is_trial(trainer):
                line = shell_line(["--logdir", str(logger.save_dir)], "tensorboard")
                lines.append(f"See its curves: {line}")
        return lines


def duration(seconds: float) -> str:
    """Returns a time as people say it: ``50 s``, ``1 min 10 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _of_training(trainer: Trainer) -> list[str]:
    """Describes the figures of the newest rollout or step."""
    bar = trainer.progress_bar_metrics
    return [f"{BAR[name]} {x:.2f}" for name, x in bar.items() if name in BAR]


def _bar_figures(trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
    """Returns the figures of the progress bar, without the number of the run's folder."""
    return {name: f"{round(x, 3) + 0:g}" for name, x in trainer.progress_bar_metrics.items()}


def _unit(stage: Any) -> str:
    return "step" if stage.rollouts is None else "rollout"


def _done(trainer: Trainer, stage: Stage) -> int:
    return trainer.global_step if stage.rollouts is None else stage.rollouts


def _total(trainer: Trainer, stage: Stage) -> int | None:
    """Returns the number of rollouts or steps of the whole run; None if something else ends it."""
    if any(isinstance(callback, Timer) for callback in callbacks_of(trainer)):
        return None
    if stage.rollouts is None:
        total = trainer.estimated_stepping_batches
    elif trainer.max_steps >= 0:  # it counts optimizer steps
        return None
    else:  # an epoch's length may have changed since the run began
        length, epoch = trainer.num_training_batches, trainer.current_epoch
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        left = ((trainer.max_epochs or 0) - epoch) * length - batches.processed
        total = stage.rollouts + left
    return int(total) if isfinite(total) and total > 0 else None

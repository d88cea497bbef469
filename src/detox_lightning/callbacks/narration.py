"""Says what a run does, how far it is, what it has reached and what to do next."""

import shutil
import time
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.callbacks.pace import Pace, duration, speed, total_steps
from detox_lightning.errors import writing
from detox_lightning.protocols import Stage, as_stage, data_of, stage_of, steps_done
from detox_lightning.redaction import printable
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.provenance import command_of, shell_line
from detox_lightning.runs.run_folders import atomic_file, folder_of, is_trial, log_folder
from detox_lightning.stages.flag_changes import measures_alike

SECONDS_BETWEEN_LINES = 60  # if there is no progress bar
COLUMNS = 80  # of a line
SUMMARY = "summary.txt"
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
# tqdm's without the percentage and the epoch's times: there is the whole run's time left
TQDM = "{desc}: {bar}| {n_fmt}/{total_fmt} [{rate_noinv_fmt}{postfix}]"
TQDM_BEGINS = 36  # columns of it before the figures


class NarrationCallback(Callback):
    """Prints lines for people, the same ones in a terminal and in a log file.

    At the start: the run's folder and its number of rollouts (or steps). After the first rollout
    and each validation: progress, the time left, the speed, figures and the best checkpoint's. At
    the end: a summary of the run in one line, which the run's folder keeps as ``summary.txt``, and
    the next commands. Without a progress bar, there is also a line a minute.
    """

    def __init__(self) -> None:
        self.baseline: dict[str, float] = {}
        self.newest: dict[str, float] = {}
        self.pace = Pace()
        self.has_told_pace = False
        self.told = 0.0
        self.folder: Path | None = None
        self.summary = ""
        self.has_ended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds to the figures beside Lightning's progress bar, and shortens them."""
        bar = trainer.progress_bar_callback
        if type(bar) in (RichProgressBar, TQDMProgressBar):  # others choose their own
            vars(bar)["get_metrics"] = self._bar_figures
        if type(bar) is TQDMProgressBar and stage == "fit":
            vars(bar)["BAR_FORMAT"] = TQDM

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where the run's files go, and how much there is to do."""
        stage = as_stage(pl_module)
        if stage is None:
            return
        done, total = steps_done(trainer, stage), total_steps(trainer, stage)
        self.told, self.has_told_pace = time.monotonic(), False
        self.pace.begin(done)
        if not is_trial(trainer):
            self.folder = log_folder(trainer)
            rank_zero_info(f"The run's folder is {self.folder}")
        if total:
            rank_zero_info(f"{_counted(total - done, stage)} to do")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Times validations by themselves."""
        self.pace.begin_validation()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far the run is and what the validation found."""
        stage = as_stage(pl_module)
        if stage is None or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.pace.end_validation()
        metrics = trainer.callback_metrics
        self.newest = {
            name: float(metrics[f"val/{name}"]) for name in FIGURES if f"val/{name}" in metrics
        }
        if steps_done(trainer, stage) == 0:
            self.baseline = self.newest
        figures = self._figures(list(self.newest)[:1])
        figures[1:1] = _best(trainer, stage, "so far")
        self._tell(trainer, stage, figures)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Says how long it will take, and, without a progress bar, now and then how far it is.

        This comes before a batch: a validation after the batch before has said as much already.
        """
        stage = as_stage(pl_module)
        if stage is None:
            return
        is_first = not self.has_told_pace and steps_done(trainer, stage) > self.pace.first
        is_due = time.monotonic() - self.told > SECONDS_BETWEEN_LINES
        if is_first or (is_due and trainer.progress_bar_callback is None):
            self._tell(trainer, stage, [*_of_training(trainer), *_best(trainer, stage)])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that training has come to its end, and keeps its summary."""
        stage = as_stage(pl_module)
        self.has_ended = stage is not None
        figures = self._figures(list(self.newest)) or _of_training(trainer)
        if stage is None or not figures:  # nothing was done
            return
        title = "Last validation" if self.newest else f"Last {_unit(stage)}"
        if self.baseline and self.newest and self.baseline is not self.newest:
            title = "Validation before → after"
        figures[1:1] = _best(trainer, stage, "at the end")
        self.summary = f"{self._what(trainer, stage)}. {title}: {' · '.join(figures)}"
        # without a logger, several runs have the same folder
        if self.folder is not None and trainer.logger and trainer.is_global_zero:
            file = self.folder / SUMMARY
            with writing(file), atomic_file(file) as partial:
                partial.write_text(f"{self.summary}\n", encoding="utf8")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Says what training has changed, and what to do next: after all else is written."""
        if not self.has_ended or stage != "fit":
            return
        self.has_ended = False
        if (bar := trainer.progress_bar_callback) is not None:
            bar.teardown(trainer, pl_module, stage)  # it would break long lines, once more is fine
        for line in filter(None, [self.summary, *self._next_commands(trainer)]):
            rank_zero_info(line)
        self.summary = ""

    def state_dict(self) -> dict[str, Any]:
        """Returns the figures before training, which a resumed run compares with, and its time."""
        return {"baseline": self.baseline, "seconds": self.pace.seconds}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores the time, and the figures before training if they compare with this run's."""
        state = checkpoint["callbacks"].get(self.state_key, {})
        kept, seconds = dict(state.get("baseline") or {}), state.get("seconds")
        numbers = {name: float(x) for name, x in kept.items() if isinstance(x, float | int)}
        self.baseline = numbers if measures_alike(pl_module, checkpoint) else {}
        self.pace.seconds_before = float(seconds) if isinstance(seconds, float | int) else 0.0

    def _tell(self, trainer: Trainer, stage: Stage, figures: list[str]) -> None:
        """Prints progress, the time left, the speed and figures, up to 80 columns a line."""
        done, total = steps_done(trainer, stage), total_steps(trainer, stage)
        parts = [f"{_unit(stage)} {done:,}" + (f" of {total:,}" if total else "")]
        if (left := self.pace.seconds_left(trainer, stage)) is not None:
            parts.append(f"about {duration(left)} left")
        if (each := self.pace.seconds_each(done)) is not None:
            parts.append(speed(each, _unit(stage)))
        self.told, self.has_told_pace = time.monotonic(), each is not None
        whole = "\xa0· ".join(part.replace(" ", "\xa0") for part in [*parts, *figures])
        lines = fill(whole, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
        rank_zero_info(lines.replace("\xa0", " "))

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

    def _what(self, trainer: Trainer, stage: Stage) -> str:
        """Says what was trained on what, how long, and on which devices."""
        data, device = data_of(trainer), trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        number = trainer.num_devices * trainer.num_nodes
        run = f"{self.folder.parent.name}/{self.folder.name}: " if self.folder else ""
        rows = f" on {', '.join(data.sources)}" if data else ""
        count = _counted(steps_done(trainer, stage), stage)
        devices = name if number == 1 else f"{number} x {name}"
        how = f"({stage.stage_name}), {count} in {duration(self.pace.seconds)} on {devices}"
        return printable(f"{run}{stage.model_name} trained{rows} {how}")

    def _bar_figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        """Returns the figures of the progress bar: those of training, the time left, the best."""
        bar, stage = trainer.progress_bar_metrics, as_stage(pl_module)
        shown = {name: f"{round(x, 3) + 0:g}" for name, x in bar.items()}
        left = None if stage is None else self.pace.seconds_left(trainer, stage)
        if left is not None:
            shown["left"] = duration(left)
        if best := _best_checkpoint(trainer):
            shown["best"] = f"{best.best_model_score:.3f} at {best.best_at}"
        if type(trainer.progress_bar_callback) is TQDMProgressBar:  # it would cut the last ones off
            room = shutil.get_terminal_size().columns - TQDM_BEGINS
            while len(shown) > 2 and len(", ".join(f"{k}={x}" for k, x in shown.items())) > room:
                shown.pop(next(iter(shown)))
        return {name: text.replace(" ", "\xa0") for name, text in shown.items()}

    def _next_commands(self, trainer: Trainer) -> list[str]:
        """Returns lines with the commands that evaluate the run and show its curves."""
        lines = []
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        if self.folder is not None and last and command_of(trainer) is not None:
            is_here = folder_of(Path(last)) == self.folder  # with its configuration
            config = [] if is_here else ["--config", str(self.folder / "config.yaml")]
            words = ["test", *config, "--ckpt_path", str(self.folder) if is_here else last]
            lines.append(f"Evaluate it: {shell_line(words)}")
            best, stage = _best_checkpoint(trainer), stage_of(trainer)
            if (
                best is not None
                and stage is not None
                and best.best_at != steps_done(trainer, stage)
            ):
                lines.append(f"The best: {shell_line([*words[:-1], best.best_model_path])}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not is_trial(trainer):
                line = shell_line(["--logdir", str(logger.save_dir)], "tensorboard")
                lines.append(f"See its curves: {line}")
        return lines


def _best_checkpoint(trainer: Trainer) -> BoundedCheckpoint | None:
    """Returns what knows the best checkpoint; None if nothing is monitored, or none is written."""
    callback = trainer.checkpoint_callback
    if not isinstance(callback, BoundedCheckpoint) or callback.best_at is None:
        return None
    return None if callback.best_model_score is None else callback


def _best(trainer: Trainer, stage: Stage, moment: str = "") -> list[str]:
    """Describes the best checkpoint so far, in no or one part of a line.

    ``moment`` says when it is the present one; empty: there are no new figures.
    """
    callback, done = trainer.checkpoint_callback, steps_done(trainer, stage)
    if not isinstance(callback, BoundedCheckpoint) or not callback.monitor:
        return []
    name = callback.monitor.removeprefix("val/")
    label, form = FIGURES.get(name, (name, ".3f"))
    best = _best_checkpoint(trainer)
    if moment and (callback.is_best(trainer) or (best is not None and best.best_at == done)):
        return [f"best {label} {moment}"]
    if best is None:
        return []
    return [f"best {label} {best.best_model_score:{form}} at {_unit(stage)} {best.best_at:,}"]


def _of_training(trainer: Trainer) -> list[str]:
    """Describes the figures of the newest rollout or step."""
    bar = trainer.progress_bar_metrics
    return [f"{BAR[name]} {x:.2f}" for name, x in bar.items() if name in BAR]


def _unit(stage: Stage) -> str:
    return "step" if stage.rollouts is None else "rollout"


def _counted(number: int, stage: Stage) -> str:
    return f"{number:,} {_unit(stage)}{'' if number == 1 else 's'}"

"""Fills TensorBoard's Custom Scalars (several curves in a chart) and HParams (runs in a table)."""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.protocols import as_stage
from detox_lightning.redaction import SECRET, without_passwords
from detox_lightning.report.curves import PANELS
from detox_lightning.rewards import Reward
from detox_lightning.runs.lightning_internals import next_point

_FIRST_COLUMNS = (
    *("advantage", "kl.coef", "loss", "lora.r", "mini_batch_size", "optimizer.lr", "ppo_epochs"),
    "seed",
)
_LONGEST = 100  # characters of a value in the table


class DashboardCallback(Callback):
    """Arranges curves in charts (Custom Scalars), and adds the run to the table HParams.

    Only for TensorBoard. A run's row shows the last points of the validation's curves; a run
    without validation has no row. TensorBoard shows only a run's first row, so its logger must not
    write one of its own: ``default_hp_metric: false``.
    """

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lays out the charts of a stage with rollouts."""
        stage = as_stage(pl_module)
        if stage is not None and stage.rollouts is not None:
            for logger in tensorboard_loggers(trainer):
                logger.experiment.add_custom_scalars(_layout())

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds hyper-parameters, and which figures belong to them, to the table."""
        stage = as_stage(pl_module)
        row = hyper_parameters({**pl_module.hparams, "seed": stage.seed if stage else None})
        figures = [name for name in trainer.callback_metrics if name.startswith("val/")]
        # a step beyond the curves: a run that resumes here drops it, and ends with its own
        end = next_point(trainer, trainer.fit_loop.epoch_loop._batches_that_stepped)
        for logger in tensorboard_loggers(trainer) if figures else []:
            for part in _table_row(row, figures):
                logger.experiment.file_writer.add_summary(part, end)


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Returns a trainer's loggers whose ``experiment`` shows texts, histograms and layouts."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _layout() -> dict[str, dict[str, list[Any]]]:
    """Returns ``PANELS`` in TensorBoard's form: patterns of the names of curves."""
    charts = {
        panel.wider or title: ["Multiline", [f"{re.escape(name)}$" for name in panel.names]]
        for title, panel in PANELS.items()
    }
    return {"detox": charts}


def _table_row(row: dict[str, Any], figures: Sequence[str]) -> tuple[Any, Any, Any]:
    """Returns the summaries that add a run to HParams, with the names of its figures' curves."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    experiment, start, end = hparams(row, dict.fromkeys(figures))
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for column in content.experiment.hparam_infos:
        # those that are said to differ between runs stand first; of the others, few are shown
        column.differs = column.name in _FIRST_COLUMNS
    plugin.content = content.SerializeToString()
    return experiment, start, end


def hyper_parameters(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens hyper-parameters into numbers and short texts with dotted names: ``kl.coef``.

    A class, configured or an object, becomes its name, followed by its options. Values that are
    null, functions or named like a secret are left out.
    """
    row: dict[str, Any] = {}
    for key, value in tree.items():
        if not key.startswith("_") and not SECRET.search(key):
            row |= _columns(f"{prefix}{key}", value)
    return row


def _columns(name: str, value: Any) -> dict[str, Any]:
    """Returns the columns of one hyper-parameter: its own, and those of its options."""
    inside = f"{name}."
    if value is None or inspect.isroutine(value):
        return {}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {name: value}
    if isinstance(value, Mapping) and "class_path" in value:
        short = str(value["class_path"]).rpartition(".")[2]
        return {name: short, **hyper_parameters(value.get("init_args") or {}, inside)}
    if isinstance(value, Mapping):
        return hyper_parameters(value, inside)
    if dataclasses.is_dataclass(value):
        return hyper_parameters(vars(value), inside)
    if isinstance(value, Reward):
        return {name: type(value).__name__, f"{inside}about": value.describe()[:_LONGEST]}
    if hasattr(value, "__dict__"):
        options = {key: x for key, x in vars(value).items() if isinstance(x, bool | int | float)}
        return {name: type(value).__name__, **hyper_parameters(options, inside)}
    return {name: without_passwords(str(value))[:_LONGEST]}

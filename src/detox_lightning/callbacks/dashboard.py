"""What TensorBoard shows beyond single curves: related curves in one chart, and runs in a table."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.redaction import SECRET, without_passwords
from detox_lightning.report.curves import PANELS
from detox_lightning.runs.loop_state import next_point

LONGEST = 100  # characters of a value in the table


class DashboardCallback(Callback):
    """Arranges curves in charts (Custom Scalars), and enters the run into the table HParams.

    Loggers that have no such thing are left alone. A run's row holds what the last validation
    found, as ``final/…``; a run without validation has none. Only a run's first row counts for
    TensorBoard, so its logger must not write one of its own: ``default_hp_metric: false``.
    """

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lays out the charts, for a stage that makes rollouts."""
        if not hasattr(pl_module, "rollouts"):
            return
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if hasattr(writer, "add_custom_scalars"):
                writer.add_custom_scalars(layout())

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enters hyper-parameters and final figures into the table."""
        row = hyper_parameters({**pl_module.hparams, "seed": getattr(pl_module, "seed", None)})
        metrics = final(trainer.callback_metrics)
        end = next_point(pl_module, trainer.fit_loop.epoch_loop._batches_that_stepped)
        for logger in trainer.loggers:
            takes: Any = logger.log_hyperparams
            known = inspect.signature(takes).parameters
            if metrics and {"metrics", "step"} <= set(known):
                # beyond the curves: a run that goes on from here drops it, and ends with its own
                takes(row, metrics, step=end)


def layout() -> dict[str, dict[str, list[Any]]]:
    """``PANELS`` as TensorBoard wants them: names of curves are patterns of how they begin."""
    charts = {
        panel.wider or title: ["Multiline", [f"{re.escape(name)}$" for name in panel.names]]
        for title, panel in PANELS.items()
    }
    return {"detox": charts}


def final(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the last validation found, under names that are no curve's.

    Args:
        metrics: All that was logged, ``val/…`` among it.
    """
    return {
        f"final/{name.removeprefix('val/')}": float(value)
        for name, value in metrics.items()
        if name.startswith("val/")
    }


def hyper_parameters(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Hyper-parameters as numbers and short texts, one a column.

    What is inside something has a dotted name: ``kl.coef``. A class, as a configuration or as an
    object, is its name, and its options follow. What is null, a function or named like a secret is
    left out.

    Args:
        tree: By name.
        prefix: Of the names.
    """
    row: dict[str, Any] = {}
    for key, value in tree.items():
        if not key.startswith("_") and not SECRET.search(key):
            row |= columns(f"{prefix}{key}", value)
    return row


def columns(name: str, value: Any) -> dict[str, Any]:
    """One hyper-parameter's column, or columns.

    Args:
        name: Of the first.
        value: Whatever the parameter is.
    """
    inside = f"{name}."
    if value is None or inspect.isroutine(value):
        return {}
    if isinstance(value, bool | str | list | tuple):
        return {name: without_passwords(str(value))[:LONGEST]}
    if isinstance(value, int | float):
        return {name: value}
    if isinstance(value, Mapping) and "class_path" in value:
        short = str(value["class_path"]).rpartition(".")[2]
        return {name: short, **hyper_parameters(value.get("init_args") or {}, inside)}
    if isinstance(value, Mapping):
        return hyper_parameters(value, inside)
    if dataclasses.is_dataclass(value):
        return hyper_parameters(vars(value), inside)
    if hasattr(value, "describe"):
        return {name: type(value).__name__, f"{inside}about": value.describe()[:LONGEST]}
    if hasattr(value, "__dict__"):
        options = {key: x for key, x in vars(value).items() if isinstance(x, bool | int | float)}
        return {name: type(value).__name__, **hyper_parameters(options, inside)}
    return {name: without_passwords(str(value))[:LONGEST]}

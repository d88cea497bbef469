"""Logs the policy's responses during training: tables to read, and histograms of figures."""

import re
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.callbacks.dashboard import tensorboard_loggers
from detox_lightning.protocols import as_stage

COLUMNS = ["prompt", "response", "score", "tokens", "kl"]
_MARKUP = re.compile(r"[&<>|`*_\\\[\]!~]")
_LARGEST = 1e19  # TensorBoard's last bin ends somewhat below 1e20

Row = tuple[str, str, float, int, float]


class SamplesCallback(Callback):
    """Logs some of a rollout's responses as a table, and histograms of scores, lengths and KL.

    They are those of the first process. Tables go to TensorBoard's texts and to loggers with a
    method ``log_text`` (Weights & Biases), histograms to TensorBoard.
    """

    def __init__(self, every_n_rollouts: NonNegativeInt = 10, count: PositiveInt = 8):
        """Sets how often and how many responses are logged.

        Args:
            every_n_rollouts: Rollouts between tables; 0 for none.
            count: Rows of a table.
        """
        self.every_n_rollouts = every_n_rollouts
        self.count = count

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Logs after the first rollout and every ``every_n_rollouts``."""
        stage = as_stage(pl_module)
        if stage is None or stage.samples is None or not self.every_n_rollouts:
            return
        samples, done = stage.samples, stage.rollouts or 0
        if done != 1 and done % self.every_n_rollouts:
            return
        rows: list[Row] = list(zip(*samples, strict=True))[: self.count]
        table = [list(row) for row in rows]
        for logger in trainer.loggers:
            if hasattr(logger, "log_text"):  # such as Lightning's for Weights & Biases
                logger.log_text(key="samples", columns=COLUMNS, data=table, step=done)
        for tensorboard in tensorboard_loggers(trainer):
            tensorboard.experiment.add_text("samples", markdown_tables(rows), done)
            for name in ("scores", "lengths", "kl"):
                values = torch.tensor(getattr(samples, name), dtype=torch.float64)
                # TensorBoard has no bin for other numbers, and fails if there are none left
                shown = values[values.abs() < _LARGEST]  # False for NaN
                if len(shown):
                    tensorboard.experiment.add_histogram(f"rollout/{name}", shown, done)


def markdown_tables(rows: list[Row]) -> str:
    """Returns rows (prompt, response, score, tokens, KL in nats) as Markdown.

    A prompt is shown once, above the table of its responses. Their figures share a column, as
    TensorBoard breaks words in narrow ones.
    """
    lines = []
    for prompt, answers in groupby(rows, itemgetter(0)):
        lines += ["| prompt |", "|---|", f"| {_cell(prompt)} |", ""]
        lines += ["| response | score, tokens, kl |", "|---|---|"]
        lines += [
            f"| {_cell(response)} | {score:.3f}, {tokens}, {kl:.3f} |"
            for _, response, score, tokens, kl in answers
        ]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escapes a text so that a cell shows it unchanged: no tags, no markup, no pictures."""
    escaped = _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", text)
    return "<br>".join(escaped.strip().splitlines())

"""What the policy says while it learns: tables to read, and how the figures are spread."""

import re
from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from detox_lightning.protocols import Samples

COLUMNS = ["prompt", "response", "score", "tokens", "kl"]
MARKUP = re.compile(r"[&<>|`*_\\\[\]!~]")
LARGEST = 1e19  # TensorBoard's last bin ends somewhat below 1e20
SPREAD = ("scores", "lengths", "kl")  # of which there are histograms

Row = tuple[str, str, float, int, float]


class SamplesCallback(Callback):
    """Logs some of a rollout's responses as a table, and histograms of scores, lengths and KL.

    They are the first process's. Each goes wherever the logger takes it: tables to TensorBoard's
    texts and to loggers with a ``log_text`` (Weights & Biases), histograms to TensorBoard.
    """

    def __init__(self, every_n_rollouts: NonNegativeInt = 10, count: PositiveInt = 8):
        """Sets how often and how many.

        Args:
            every_n_rollouts: Rollouts between tables; 0 for none.
            count: Rows of a table.
        """
        self.every_n_rollouts = every_n_rollouts
        self.count = count

    @rank_zero_only
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Logs after every so many rollouts, the first included."""
        samples = getattr(pl_module, "samples", None)
        if samples is None or not self.every_n_rollouts:
            return
        done: Any = pl_module.rollouts
        if done != 1 and done % self.every_n_rollouts:
            return
        for logger in trainer.loggers:
            log_table(logger, list(zip(*samples, strict=True))[: self.count], done)
            log_histograms(logger, samples, done)


def log_table(logger: Any, rows: list[Row], rollouts: int) -> None:
    """Gives a logger a table, if it takes one.

    Args:
        logger: Any of Lightning's.
        rows: Of :class:`Samples`.
        rollouts: Done so far, the table's place on the x-axis.
    """
    writer: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_text"):
        data = [list(row) for row in rows]
        logger.log_text(key="samples", columns=COLUMNS, data=data, step=rollouts)
    elif hasattr(writer, "add_text"):
        writer.add_text("samples", markdown_table(rows), rollouts)


def log_histograms(logger: Any, samples: Samples, rollouts: int) -> None:
    """Gives a logger the spread of scores, lengths and KL, if it takes histograms.

    TensorBoard has no bin for what is not finite or very large, and fails where nothing else is
    given: then there is no histogram.

    Args:
        logger: Any of Lightning's.
        samples: Of a rollout.
        rollouts: Done so far, their place on the x-axis.
    """
    writer: Any = getattr(logger, "experiment", None)
    if hasattr(writer, "add_histogram"):
        for name in SPREAD:
            values = torch.tensor(getattr(samples, name), dtype=torch.float64)
            shown = values[values.abs() < LARGEST]  # NaN isn't
            if len(shown):
                writer.add_histogram(f"rollout/{name}", shown, rollouts)


def markdown_table(rows: list[Row]) -> str:
    """Rows of :class:`Samples` as a Markdown table.

    Args:
        rows: Prompt, response, score, tokens, KL in nats.
    """
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [
        f"| {_cell(prompt)} | {_cell(response)} | {score:.3f} | {tokens} | {kl:.3f} |"
        for prompt, response, score, tokens, kl in rows
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that stays in one cell, as it is: no tags, no markup, no pictures from elsewhere."""
    escaped = MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", text)
    return "<br>".join(escaped.strip().splitlines())

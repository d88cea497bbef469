"""A table of sample prompts, responses and scores, to read while training goes on."""

from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only


class SamplesCallback(Callback):
    """Logs some of a rollout's responses as text, wherever the logger takes text."""

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
        """Logs a table after every so many rollouts, the first included."""
        samples = getattr(pl_module, "samples", None)
        if samples is None or not self.every_n_rollouts:
            return
        done = pl_module.rollouts
        if done != 1 and done % self.every_n_rollouts:
            return
        rows = list(zip(*samples, strict=True))[: self.count]
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if hasattr(writer, "add_text"):
                writer.add_text("samples", markdown_table(rows), done)


def markdown_table(rows: list[tuple[str, str, float]]) -> str:
    """Prompts, responses and scores as a Markdown table.

    Args:
        rows: Prompt, response, score.
    """
    lines = ["| prompt | response | score |", "|---|---|---|"]
    lines += [f"| {_cell(p)} | {_cell(r)} | {score:.3f} |" for p, r, score in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that stays in one cell: bars, tags and line ends made harmless."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return "<br>".join(escaped.strip().splitlines())

"""The curves that a run logged, and which of them belong side by side."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Curves = dict[str, list[tuple[int, float]]]
PLACEHOLDER = "hp_metric"  # TensorBoardLogger writes -1 under this name


class Panel(NamedTuple):
    """Metrics that one picture shows.

    Attributes:
        rollout: Metric of each rollout; None: there is none.
        fixed: Metric of validation, whose prompts are fixed.
        beside: More metrics of validation, which only TensorBoard's charts show.
        wider: Title of a chart with these; None: the panel's own.
    """

    rollout: str | None
    fixed: str
    beside: tuple[str, ...] = ()
    wider: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all metrics."""
        return (*filter(None, (self.rollout, self.fixed)), *self.beside)


PANELS = {
    "Score": Panel("objective/scores_mean", "val/score"),
    "Toxicity": Panel(None, "val/toxicity", ("val/toxicity_probability", "val/second_toxicity")),
    "KL to the reference, nats": Panel("objective/kl", "val/kl"),
    "ROUGE-L": Panel(
        None, "val/rougeL", ("val/rouge1", "val/rouge2", "val/rougeLsum"), wider="ROUGE"
    ),
    "Tokens per response": Panel("tokens/responses_len_mean", "val/length"),
    "Share that ended by itself": Panel("objective/eos_rate", "val/eos_rate"),
}


def present_panels(curves: Curves) -> list[str]:
    """Returns the titles of the panels that have data."""
    return [
        title
        for title, panel in PANELS.items()
        if curves.get(panel.fixed) or curves.get(panel.rollout or "")
    ]


def read_curves(folder: Path) -> Curves:
    """Reads the scalars that TensorBoardLogger or, without them, CSVLogger wrote into a folder.

    Returns:
        By metric, pairs of rollout and value, sorted by rollout; of several values for one rollout
        the one written last. Empty if nothing was logged.
    """
    for points in (_from_events(folder), _from_csv(folder)):
        curves: dict[str, dict[int, float]] = {}
        for name, step, value in points:
            curves.setdefault(name, {})[step] = value
        curves.pop(PLACEHOLDER, None)
        if curves:
            return {name: sorted(values.items()) for name, values in curves.items()}
    return {}


def _from_events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yields metric, step and value of each scalar, oldest file first.

    Points that a killed run logged after the checkpoint from which it was resumed are left out.
    """
    from tensorboard.backend.event_processing import event_accumulator

    if not any(folder.glob("events.out.tfevents.*")):
        return
    event_accumulator.logger.setLevel("ERROR")  # otherwise it warns of each point left out
    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            yield name, event.step, event.value


def _from_csv(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yields metric, step and value of each cell that has a value, from top to bottom."""
    file = folder / "metrics.csv"
    if file.is_file():
        with file.open(newline="", encoding="utf8") as lines:
            for row in csv.DictReader(lines):
                if step := row.pop("step", None):
                    yield from ((name, int(step), float(x)) for name, x in row.items() if x)

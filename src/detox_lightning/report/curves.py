"""What a run logged, read back from its folder."""

import csv
from collections.abc import Iterator
from pathlib import Path

Curves = dict[str, list[tuple[int, float]]]
PLACEHOLDER = "hp_metric"  # TensorBoardLogger writes -1 under this name


def read_curves(folder: Path) -> Curves:
    """Reads the scalars that TensorBoardLogger or CSVLogger wrote.

    Args:
        folder: The run's. Its TensorBoard files are asked first, then its ``metrics.csv``.

    Returns:
        By metric, pairs of rollout and value by rising rollout; of several values for one rollout
        the one written last. Empty where nothing was logged.
    """
    return _collect(_from_events(folder)) or _collect(_from_csv(folder))


def _collect(points: Iterator[tuple[str, int, float]]) -> Curves:
    """Sorts points into curves."""
    curves: dict[str, dict[int, float]] = {}
    for name, step, value in points:
        curves.setdefault(name, {})[step] = value
    curves.pop(PLACEHOLDER, None)
    return {name: sorted(values.items()) for name, values in curves.items()}


def _from_events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Metric, step and value of each scalar, oldest file first.

    What a killed run logged after the checkpoint from which it went on is left out.
    """
    from tensorboard.backend.event_processing import event_accumulator

    if not any(folder.glob("events.out.tfevents.*")):
        return
    event_accumulator.logger.setLevel("ERROR")  # it would tell of each part that is left out
    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            yield name, event.step, event.value


def _from_csv(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Metric, step and value of each cell that has one, from top to bottom."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf8") as lines:
        for row in csv.DictReader(lines):
            step = row.pop("step", None)
            if step:
                yield from ((name, int(step), float(cell)) for name, cell in row.items() if cell)

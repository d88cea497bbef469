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
    """Metric, step and value of each scalar, oldest file first."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in sorted(folder.glob("events.out.tfevents.*")):
        events = EventAccumulator(
            str(file), size_guidance={"scalars": 0}, purge_orphaned_data=False
        ).Reload()
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

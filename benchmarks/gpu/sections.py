"""All sections, in the order in which they run, and the cases of each."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from gpu import peer_rounds, runs, steps
from gpu.bench import PRECISIONS, Bench
from gpu.report import Row, Table

ALL, FIRST = slice(None), slice(1)  # of the models, and of the numbers of rows


class Case(NamedTuple):
    """A row that is measured.

    Attributes:
        labels: Figures of the row that are known before.
        work: Measures the others.
    """

    labels: dict[str, Any]
    work: Callable[[], Row]


class Section(NamedTuple):
    """A table.

    Attributes:
        table: Its head.
        cases: Gives its rows.
    """

    table: Table
    cases: Callable[[Bench], Iterator[Case]]


def _machine(bench: Bench) -> Iterator[Case]:
    yield Case({}, partial(steps.machine, bench))


def _cases(
    measure: Callable[..., Row], models: slice, sizes: slice, bench: Bench
) -> Iterator[Case]:
    """Some models in both precisions with some numbers of rows; one model is opened at a time."""
    for model in bench.scale.models[models]:
        for precision in PRECISIONS:
            for rows in sorted(bench.scale.batches)[sizes]:
                labels = {"model": model.name, "precision": precision, "rows": rows}
                yield Case(labels, partial(measure, bench, model, precision, rows))


def _resume(bench: Bench) -> Iterator[Case]:
    model = bench.scale.t5
    for deterministic in (True, False):
        labels = {"model": model.name, "deterministic": deterministic}
        yield Case(labels, partial(runs.resume, bench, model, deterministic))


def _peer(bench: Bench) -> Iterator[Case]:
    rows = max(bench.scale.batches)
    for way in ("batch", "single"):
        labels = {"way": way, "precision": "float32", "rows": rows}
        yield Case(labels, partial(peer_rounds.compare, bench, way, "float32", rows))


SECTIONS = {
    "machine": Section(steps.MACHINE, _machine),
    "step": Section(steps.STEP, partial(_cases, steps.step, ALL, ALL)),
    "rollout": Section(runs.ROLLOUTS, partial(_cases, runs.rollouts, ALL, ALL)),
    "equality": Section(steps.EQUALITY, partial(_cases, steps.equality, ALL, FIRST)),
    "update": Section(runs.UPDATE, partial(_cases, runs.update, FIRST, FIRST)),
    "resume": Section(runs.RESUME, _resume),
    "peer": Section(peer_rounds.PEER, _peer),
}

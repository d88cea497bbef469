"""What the figures should be, and what they mean for a user."""

from collections.abc import Callable
from typing import NamedTuple

from gpu.bench import Bench
from gpu.report import REMARK, Report, Row, Table, cell

TABLE = Table("Targets", {"what": "figure", "bound": "target", "found": "found"})


class Target(NamedTuple):
    """A bound on a figure.

    Attributes:
        what: What is bounded.
        bound: The bound in words.
        found: The figure; None: it was not measured.
        met: Whether a figure is within the bound.
    """

    what: str
    bound: str
    found: float | None
    met: Callable[[float], bool]

    @property
    def row(self) -> Row:
        """The row of a table, with the verdict as its remark."""
        verdict = "not measured"
        if self.found is not None:
            verdict = "met" if self.met(self.found) else "missed"
        return {"what": self.what, "bound": self.bound, "found": self.found, REMARK: verdict}


def targets(report: Report, bench: Bench) -> list[Target]:
    """The targets, with the figures of a report.

    Figures of small models on a dry run are no measurements.

    Args:
        report: The rows that were measured.
        bench: What was measured.
    """
    few, most = min(bench.scale.batches), max(bench.scale.batches)
    t5 = bench.scale.t5.name

    def step(precision: str) -> float | None:
        return find("step", "times", model=t5, precision=precision, rows=few)

    def find(section: str, key: str, **labels: object) -> float | None:
        return None if bench.dry else report.find(section, key, **labels)

    colab = find("rollout", "total", model=t5, precision="float32", rows=few)
    list_call, single = (find("peer", "total", way=way, rows=most) for way in ("batch", "single"))
    memory = find("peer", "memory", way="batch", rows=most)
    return [
        *(
            Target(
                f"a captured step of {few} rows, {precision} / weights read once",
                "at most 4",
                step(precision),
                lambda x: x <= 4,
            )
            for precision in ("float32", "bf16-mixed")
        ),
        Target(
            "a rollout of configs/notebooks/colab.yaml's shape, s",
            "under .5",
            colab,
            lambda x: x < 0.5,
        ),
        Target(f"× TRL's list call, batch {most}", "at least 10", list_call, lambda x: x >= 10),
        Target(f"× TRL one at a time, batch {most}", "at least 30", single, lambda x: x >= 30),
        Target("our memory / TRL's", "at most .65", memory, lambda x: x <= 0.65),
    ]


def answer(report: Report, bench: Bench) -> str:
    """Says how fast the device is with this package."""
    few, model = min(bench.scale.batches), bench.scale.t5.name
    labels = {"model": model, "precision": "float32", "rows": few}
    seconds = report.find("rollout", "total", **labels)
    if bench.dry or seconds is None:
        return "How fast this device is was not measured" + (
            ": a dry run's figures mean nothing." if bench.dry else "."
        )
    card, tokens = report.find("machine", "card") or "this device", bench.scale.tokens
    return (
        f"On {card}, a rollout of {few} responses of {tokens} tokens by {model} takes "
        f"{cell(seconds)} s with scoring and update: {cell(3600 / seconds)} rollouts an hour."
    )

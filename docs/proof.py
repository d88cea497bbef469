"""Trains in a world small enough to list every response, and compares with the exact optimum.

    python docs/proof.py --results proof.jsonl

prints the tables of docs/proof.md and draws docs/pictures/frontier.png. Each fit takes seconds and
becomes a line of ``--results``; what has a line there isn't trained again.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch  # noqa: E402

from proof.training import (  # noqa: E402
    BETAS,
    ESTIMATORS,
    SEEDS,
    World,
    fit,
    reached,
    trainable_world,
    variants,
)

OTHERS_AT = 0.5  # β of options other than the defaults


class Case(NamedTuple):
    """One fit."""

    kind: str
    name: str
    beta: float
    seed: int


def cases() -> Iterator[Case]:
    """All fits of the page."""
    for seed in SEEDS:
        yield from (Case("t5", name, beta, seed) for name in ESTIMATORS for beta in BETAS)
    yield from (Case("t5", name, OTHERS_AT, 0) for name in variants(OTHERS_AT))
    yield from (Case("llama", name, OTHERS_AT, seed) for seed in SEEDS for name in ESTIMATORS)


@cache
def world_of(kind: str) -> World:
    """The world of a kind of model, in a folder that stays as long as the process."""
    folder = tempfile.TemporaryDirectory()
    world_of.folders = [*getattr(world_of, "folders", []), folder]  # type: ignore[attr-defined]
    return trainable_world(Path(folder.name), kind)


def train(case: Case) -> dict[str, Any]:
    """Trains one case; its figures and the policy that it reached."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    world = world_of(case.kind)
    options = {**ESTIMATORS, **variants(case.beta)}[case.name]
    with tempfile.TemporaryDirectory() as folder:
        trained, reference = fit(Path(folder), world, case.beta, case.seed, **options)
    figures = reached(world, trained, reference, case.beta)
    return {**case._asdict(), **figures._asdict(), "policy": trained.tolist()}


def trained(file: Path, jobs: int) -> list[dict[str, Any]]:
    """The results of all cases; those that the file lacks are trained, and added to it."""
    file.touch()
    rows = [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]
    known = {Case(*(row[field] for field in Case._fields)) for row in rows}
    missing = [case for case in cases() if case not in known]
    with get_context("spawn").Pool(jobs) as pool, file.open("a", encoding="utf8") as out:
        for row in pool.imap(train, missing):
            rows.append(row)
            out.write(json.dumps(row) + "\n")
            out.flush()
    return rows


def main() -> None:
    """Reads the command line, trains, prints and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="file for the fits' figures")
    parser.add_argument("--jobs", type=int, default=2, help="fits at the same time")
    given = parser.parse_args()
    rows = trained(given.results, given.jobs)


if __name__ == "__main__":
    main()

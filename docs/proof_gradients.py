"""Prints the tables of docs/proof.md's section "Gradients".

Usage: python docs/proof_gradients.py
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

sys.path += [str(Path(__file__).resolve().parents[1] / "tests")]  # the enumerable world

from numerics import in_float64
from proof.biases import Row, biased_rows, exact_rows, later_rows, penalty_rows
from proof.gradients import Laboratory, moved, stepped
from proof.world import KINDS, Kind, kl, make_world

BETA = 0.3


def rows_of(kind: Kind, folder: Path) -> dict[str, list[Row]]:
    """All rows of one kind of model, by table."""
    world = make_world(folder, kind)
    policy, copy = (moved(world.policy(value_head=False)) for _ in range(2))
    with in_float64(policy, copy):
        lab = Laboratory(world, policy, BETA)
        with torch.no_grad():
            now, reference = world.logprobs(policy), world.reference_logprobs(policy)
        print(f"{kind}: the policy's KL is {kl(now, reference):.2f} nats")
        return {
            "exact": list(exact_rows(lab)),
            "biased": list(biased_rows(lab)),
            "penalties": list(penalty_rows(lab)),
            "a step later": list(later_rows(stepped(lab, copy))),
        }


def print_table(columns: Iterable[list[Row]]) -> None:
    """Prints cosine, size and error of each row, for each kind of model."""
    print("| | " + " | ".join(f"{kind}: cosine | size | error" for kind in KINDS) + " |")
    print("|---|" + "---|---|---|" * len(KINDS))
    for row in zip(*columns, strict=True):
        numbers = [f"{x:.2f}" if abs(x) > 1e-9 else f"{x:.0e}" for each in row for x in each.found]
        print(f"| {row[0].name} | " + " | ".join(numbers) + " |")


def main() -> None:
    """Measures both kinds of model."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = [rows_of(kind, Path(folder) / kind) for kind in KINDS]
    for table in found[0]:
        print()
        print_table([each[table] for each in found])


if __name__ == "__main__":
    main()

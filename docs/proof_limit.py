"""Prints the tables of docs/proof.md's sections "Limit" and "Rewards of different scales".

    python docs/proof_limit.py

trains in a world that is small enough to list every response: six fits of some ten seconds each.
"""

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from proof.two_rewards import ADDED, fit_within_limit, gains_of_both
from proof.world import Kind

CASES: list[tuple[Kind, float]] = [("t5", 0.1), ("llama", 0.1), ("t5", 0.2)]  # 0.2: the default
warnings.simplefilter("ignore")


def row(name: str, gains: list[float]) -> str:
    """Formats the gains of both rewards."""
    return f"| {name} | {gains[0]:.2f} | {gains[1]:.2f} |"


def main() -> None:
    """Trains and prints."""
    torch.set_num_threads(1)
    heads = "E[m] without", "E[m]", "λ", "λ*", "J − J_ref", "its best", "share", "KL(π‖best)"
    lines = [f"| model, rate | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, rate in CASES:
            x = fit_within_limit(folder, kind, rate)
            figures = (x.free, x.measure, x.multiplier, x.best_multiplier, x.gain, x.best_gain)
            cells = [f"{kind}, {rate}", *(f"{y:.3f}" for y in (*figures, x.share, x.distance))]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "| estimator | small reward | large reward |", "|---|---|---|"]
        for estimator in ADDED:
            gains = gains_of_both(folder, estimator)
            lines.append(row(estimator, gains.reached))
        lines.append(row("*best for the plain sum*", gains.plain))
        lines.append(row("*best for both alike*", gains.alike))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

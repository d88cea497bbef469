"""Prints the tables of docs/proof.md's sections "Limit" and "Rewards of different scales".

    python docs/proof_limit.py

trains in a world that is small enough to list every response: five fits of some ten seconds each.
"""

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from proof.two_rewards import ADDED, fit_within_limit, gains_of_both
from proof.world import KINDS

warnings.simplefilter("ignore")


def main() -> None:
    """Trains and prints."""
    torch.set_num_threads(1)
    lines = ["| model | E[m], λ 0 | E[m] | λ | λ* | J − J_ref | best J − J_ref | KL(π‖best) |"]
    lines.append("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            x = fit_within_limit(folder, kind)
            cells = (x.free, x.measure, x.multiplier, x.best_multiplier, x.gain, x.best_gain)
            numbers = " | ".join(f"{cell:.3f}" for cell in (*cells, x.distance))
            lines.append(f"| {kind} | {numbers} |")
            print(x)
        lines += ["", "| estimator | small reward | large reward |", "|---|---|---|"]
        for estimator in ADDED:
            gains, best = gains_of_both(folder, estimator)
            lines.append(f"| {estimator} | {gains[0]:.2f} | {gains[1]:.2f} |")
        lines.append(f"| *best for both alike* | {best[0]:.2f} | {best[1]:.2f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""Prints the tables of docs/proof.md's sections "Optimum" and "Frontier", and draws the picture.

    python docs/proof_optimum.py --results proof.jsonl

trains in a world that is small enough to list every response. Each fit takes some ten seconds and
becomes a line of ``--results``; what has a line there isn't trained again.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from math import log
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from matplotlib.figure import Figure
from torch import Tensor

from proof.fixed_points import with_kl_in_loss
from proof.training import (
    BETAS,
    CONSTANT,
    ESTIMATORS,
    SEEDS,
    fit,
    reached,
    trainable_world,
    variants,
)
from proof.world import World, best_of, figures, kl, optimum

PICTURE = Path(__file__).parent / "pictures" / "frontier.png"
FOLDERS: list[Any] = []  # removed when the process ends
Rows = list[dict[str, Any]]
OTHERS_AT = 0.5  # β of the decoder-only model, other options, and a constant learning rate
DRAWS = (2, 4, 8, 16)


class Case(NamedTuple):
    """One fit."""

    kind: str
    name: str
    beta: float
    seed: int


def cases() -> Iterator[Case]:
    """All fits of the page."""
    for seed in SEEDS:
        yield from (Case("t5", name, beta, seed) for beta in BETAS for name in ESTIMATORS)
        yield from (Case("llama", name, OTHERS_AT, seed) for name in ESTIMATORS)
        if seed == SEEDS[0]:
            others = (*variants(OTHERS_AT), *CONSTANT)
            yield from (Case("t5", name, OTHERS_AT, seed) for name in others)


@cache
def world_of(kind: str) -> World:
    """The world of a kind of model, on disk as long as the process."""
    FOLDERS.append(tempfile.TemporaryDirectory())
    return trainable_world(Path(FOLDERS[-1].name), kind)


def train(case: Case) -> dict[str, Any]:
    """Trains one case; its figures and the policy that it reached."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    world = world_of(case.kind)
    options = {**ESTIMATORS, **CONSTANT, **variants(case.beta)}[case.name]
    with tempfile.TemporaryDirectory() as folder:
        trained, reference = fit(Path(folder), world, case.beta, case.seed, **options)
    figures = reached(world, trained, reference, case.beta)
    return {**case._asdict(), **figures._asdict(), "policy": trained.tolist()}


def trained(file: Path, jobs: int) -> Rows:
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


def cell(shares: list[float]) -> str:
    """Formats the mean and the smallest of several shares."""
    return f"{sum(shares) / len(shares):.4f} ({min(shares):.4f})"


def optimum_table(rows: Rows) -> list[str]:
    """J/J* of each estimator: the mean over the seeds, and the smallest."""
    columns = [("t5", beta) for beta in BETAS] + [("llama", OTHERS_AT)]
    heads = [f"{'Llama, ' * (kind == 'llama')}β {beta}" for kind, beta in columns]
    lines = [f"| J/J* | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in ESTIMATORS:
        found = [
            [r["share"] for r in rows if (r["kind"], r["name"], r["beta"]) == (kind, name, beta)]
            for kind, beta in columns
        ]
        lines.append(f"| `{name}` | {' | '.join(map(cell, found))} |")
    return lines


def constant_table(rows: Rows) -> list[str]:
    """J/J* with a learning rate that decays, and with one that doesn't."""
    lines = [f"| β {OTHERS_AT}, one seed | cosine decay | constant |", "|---|---|---|"]
    here = ("t5", OTHERS_AT, SEEDS[0])
    found = [r for r in rows if (r["kind"], r["beta"], r["seed"]) == here]
    shares = {r["name"]: r["share"] for r in found}
    for name, constant in zip(ESTIMATORS, CONSTANT, strict=True):
        lines.append(f"| `{name}` | {shares[name]:.4f} | {shares[constant]:.4f} |")
    return lines


def distance_table(rows: Rows) -> list[str]:
    """KL(π‖π*): the largest of each β, beside what 1 % of J* amounts to."""
    lines = ["| β | J* | KL(π‖π*) at J = 0.99·J* | largest KL(π‖π*) |", "|---|---|---|---|"]
    reference, world = reference_of("t5"), world_of("t5")
    for beta in BETAS:
        highest = float(optimum(reference.sum(dim=2), world.rewards, beta)[1])
        found = [r for r in rows if r["kind"] == "t5" and r["beta"] == beta]
        worst = max(r["distance"] for r in found if r["name"] in ESTIMATORS)
        lines.append(f"| {beta} | {highest:.3f} | {0.01 * highest / beta:.4f} | {worst:.4f} |")
    return lines


def options_table(rows: Rows) -> list[str]:
    """RLOO with other options."""
    lines = ["| RLOO with | J/J* | reward | KL(π‖π_ref) | KL(π‖π*) |", "|---|---|---|---|---|"]
    for name in variants(OTHERS_AT):
        row = next(r for r in rows if r["name"] == name)
        numbers = " | ".join(f"{row[key]:.3f}" for key in ("share", "reward", "kl", "distance"))
        lines.append(f"| {name} | {numbers} |")
    world, reference = world_of("t5"), reference_of("t5")
    known = with_kl_in_loss(world, reference, OTHERS_AT)
    expected = reached(world, known, reference.sum(dim=2), OTHERS_AT)
    numbers = (expected.share, expected.reward, expected.kl, expected.distance)
    cells = " | ".join(f"{x:.3f}" for x in numbers)
    lines.append(f"| *what `loss.kl_coef` leads to, by the formula* | {cells} |")
    row = next(r for r in rows if r["name"] == "`loss.kl_coef`")
    distance = kl(torch.tensor(row["policy"], dtype=torch.float64), known)
    return [*lines, "", f"KL(trained with `loss.kl_coef`‖formula) = {distance:.4f} nats"]


@cache
def reference_of(kind: str) -> Tensor:
    """``[p, n, t]`` log-probabilities of the reference's tokens."""
    policy = world_of(kind).policy(value_head=False)
    with torch.no_grad(), policy.reference():
        return world_of(kind).token_logprobs(policy).double()


def frontier_table(rows: Rows) -> list[str]:
    """KL and reward: the best that is possible, trained policies, best of n."""
    world, reference = world_of("t5"), reference_of("t5").sum(dim=2)
    lines = ["| policy | KL | reward | the most at this KL |", "|---|---|---|---|"]
    points = [("untrained", 0.0, 0.0)]
    for beta in BETAS:
        found = [r for r in rows if r["name"] == "RLOO" and r["beta"] == beta]
        found = [r for r in found if r["kind"] == "t5"]
        means = [sum(r[key] for r in found) / len(found) for key in ("kl", "reward")]
        points.append((f"trained by RLOO, β {beta}", *means))
    for n in DRAWS:
        now = figures(best_of(reference, world.rewards, n), reference, world.rewards, 0.0)
        bound = log(n) - (n - 1) / n
        points.append((f"best of {n} (KL bound {bound:.3f})", float(now.kl), float(now.reward)))
    for name, divergence, reward in points:
        most = highest_reward(reference, world.rewards, divergence)
        lines.append(f"| {name} | {divergence:.3f} | {reward:.3f} | {most:.3f} |")
    return lines


def highest_reward(reference: Tensor, rewards: Tensor, divergence: float) -> float:
    """The largest reward at a KL: that of π* with this KL, found by bisection for β."""
    low, high = 1e-3, 1e6
    for _ in range(200):
        beta = (low * high) ** 0.5
        now = figures(optimum(reference, rewards, beta)[0], reference, rewards, beta)
        low, high = (beta, high) if now.kl > divergence else (low, beta)
    return float(now.reward)


def draw(rows: Rows) -> None:
    """Draws the frontier and what lies below it."""
    world, reference = world_of("t5"), reference_of("t5").sum(dim=2)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    line = []
    for beta in torch.logspace(-1.2, 2.5, 200).tolist():
        best, _ = optimum(reference, world.rewards, beta)
        line.append(figures(best, reference, world.rewards, beta)[1::-1])
    axes.plot(*torch.tensor(line).T, color="0.35", label="exact frontier: π* over β")
    for name, marker in zip(ESTIMATORS, "osD^", strict=True):
        found = [r for r in rows if r["name"] == name and r["kind"] == "t5"]
        x, y = ([r[key] for r in found] for key in ("kl", "reward"))
        axes.plot(x, y, marker, markersize=5, alpha=0.6, label=f"trained by {name}")
    chosen = [
        figures(best_of(reference, world.rewards, n), reference, world.rewards, 0.0) for n in DRAWS
    ]
    axes.plot([x.kl for x in chosen], [x.reward for x in chosen], "kx", label="best of n")
    for n, x in zip(DRAWS, chosen, strict=True):
        axes.annotate(str(n), (x.kl, x.reward), (4, -10), textcoords="offset points")
    axes.plot(0, 0, "k*", label="untrained")
    axes.set(xlabel="KL to the reference, nats a response", ylabel="expected reward")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(PICTURE, dpi=110)


TABLES = (optimum_table, distance_table, constant_table, options_table, frontier_table)


def main() -> None:
    """Reads the command line, trains, prints and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="file for the fits' figures")
    parser.add_argument("--jobs", type=int, default=2, help="fits at the same time")
    given = parser.parse_args()
    rows = trained(given.results, given.jobs)
    for table in TABLES:
        print("\n".join(table(rows)), end="\n\n")
    draw(rows)


if __name__ == "__main__":
    main()

"""The toys of ``examples/``: what is rewarded, and that a short run learns it."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from examples.increasing_numbers import make as make_numbers
from examples.increasing_numbers.reward import rising
from examples.randomwalks import make as make_walks
from examples.randomwalks.graph import EDGES, GOAL, LONGEST, NODES, SHORTEST, distances
from examples.randomwalks.reward import optimality

from command import ROOT, run
from detox_lightning.rewards.function_reward import as_reward

QUIET = "--trainer.enable_progress_bar=false"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("1 2 3 4 5 6 7 8 9 10", 1.0),
        ("0 7 19 20 21 30 33 40 48 49", 1.0),
        ("1 2 3 4 5 6 7 8 9 10 11 12", 1.0),
        ("1 2 3", 0.3),  # too few
        ("1 2 3 3 4 5 6 7 8 9", 0.3),  # not larger than the one before
        ("1 2 3 4 5 6 7 8 9 1 2 3", 9 / 12),  # what comes after counts in the length alone
        ("write 1 2 rise 3 4 5 6 7 8", 0.8),  # words are passed over
        ("9", 0.1),
        ("numbers that rise", 0.0),
        ("", 0.0),
    ],
)
def test_the_share_of_a_sequence_that_rises(text: str, share: float) -> None:
    assert rising([text, "1"]) == [pytest.approx(share), 0.1]


def test_the_graph_is_always_the_same_and_leads_to_the_goal() -> None:
    """Distances against those of powers of the matrix of edges."""
    assert EDGES["b"] == ["a", "h", "q"]
    assert sum(map(len, EDGES.values())) == 43
    matrix = torch.tensor([[float(y in EDGES[x]) for y in NODES] for x in NODES])
    reached, found = torch.eye(len(NODES)), {GOAL: 1}
    for nodes in range(2, LONGEST):
        reached = reached @ matrix
        new = [x for i, x in enumerate(NODES) if reached[i, 0] and x not in found]
        found |= dict.fromkeys(new, nodes)
    assert found == SHORTEST
    assert set(SHORTEST) == set(NODES)
    assert distances({"a": [], "b": ["c"], "c": ["b"]}) == {"a": 1}  # from there, no path


@pytest.mark.parametrize(
    ("start", "rest", "score"),
    [
        ("b", "a", 1.0),
        ("b", "h a", 7 / 8),
        ("b", "h a c c", 7 / 8),  # the goal ends the walk, whatever follows
        ("b", "h l a", 6 / 8),
        ("k", "d m u f a", 1.0),
        ("k", "d m i j b a", 3 / 4),
        ("b", "q b q b q b q b a", 0.0),  # ten nodes, the most
        ("b", "q b q b q b q b h a", 0.0),  # more than these
        ("b", "c a", 0.0),  # no such edge
        ("b", "h", 0.0),  # not at the goal
        ("b", "<unk> a", 0.0),
        ("b", "", 0.0),
        ("a", "", 1.0),  # it is there already
        ("nowhere", "a", 0.0),
    ],
)
def test_how_near_a_walk_is_to_the_shortest(start: str, rest: str, score: float) -> None:
    assert optimality([start, "f"], [rest, "a"]) == [pytest.approx(score), 1.0]


def test_the_package_calls_them_by_what_they_ask_for() -> None:
    walked = as_reward(optimality)(["b", "b"], ["a", "h a"], ["", ""])
    assert walked.tolist() == [1.0, 7 / 8]
    assert as_reward(rising)([""], ["1 2"], [""]).tolist() == [pytest.approx(0.2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both examples have written their models and data."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_numbers.main()
        make_walks.main()
    return folder


@pytest.fixture
def inside(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That folder is where commands are typed."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def fit(recipe: str, *flags: str) -> tuple[float, float]:
    """The first and the last figure that a run tells of: a score, or the loss."""
    outcome = run("fit", "--config", str(ROOT / "examples" / recipe), QUIET, *flags)
    assert outcome.code == 0, outcome.err
    told = re.findall(r"(?:score|loss) (?:[\d.]+ → )?([\d.]+) ·", outcome.err)
    return float(told[0]), float(told[-1])


def test_the_walks_to_learn_from_go_along_edges(made: Path) -> None:
    lines = (made / "models" / "randomwalks" / "data" / "train.jsonl").read_text().splitlines()
    walks = [[row["start"], *row["rest"].split()] for row in map(json.loads, lines)]
    assert len(walks) == 1000
    assert {walk[0] for walk in walks} == {*NODES} - {GOAL}
    for nodes in walks:
        assert len(nodes) <= LONGEST
        assert nodes[-1] == GOAL or len(nodes) == LONGEST
        assert all(y in EDGES[x] for x, y in pairwise(nodes))
    share = optimality([nodes[0] for nodes in walks], [" ".join(nodes[1:]) for nodes in walks])
    assert 0.35 < sum(share) / len(share) < 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("inside")
def test_random_walks_become_short_ones() -> None:
    fit("randomwalks/supervised.yaml", "--trainer.max_epochs=3")
    before, after = fit("randomwalks/ppo.yaml", "--trainer.max_epochs=1")
    assert before < 0.5
    assert after > 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("inside")
def test_numbers_begin_to_rise() -> None:
    before, after = fit("increasing_numbers/ppo.yaml", "--trainer.max_epochs=2")
    assert before < 0.15
    assert after > 0.2

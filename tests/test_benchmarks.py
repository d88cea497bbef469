"""The benchmark against the peer: its arithmetic, and the rounds of our side."""

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from command import ROOT

FOLDER = ROOT / "benchmarks"
LENGTH, VOCABULARY = 10, 1000


@pytest.fixture(scope="module")
def path() -> Iterator[None]:
    """The benchmark's parts can be imported from, as they are when it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER / "peer")
        patch.syspath_prepend(FOLDER)
        yield


@pytest.fixture(scope="module")
def rounds(path: None) -> ModuleType:
    return importlib.import_module("peer.rounds")


@pytest.fixture(scope="module")
def command(path: None) -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer_command", FOLDER / "peer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(total: float = 1.0, busy: float = 1.0, **others: Any) -> dict[str, Any]:
    """What a side says of a round of two responses."""
    usual = {
        "rollout": total / 2,
        "score": total / 4,
        "update": total / 4,
        "total": total,
        "round": total,
        "cpu": busy * total,
        "peak_mb": 100.0 * total,
        "tokens_per_second": 20 / total,
        "parameters": 5000,
        "prompt_tokens": 400,
        "response_tokens": 20,
        "scored_tokens": 420,
        "policy_loss": -0.01,
        "value_loss": 0.5,
        "entropy": LENGTH * math.log(VOCABULARY),
        "moved": 1e-5,
    }
    return usual | others


def both(ours: float, peer: float, busy: float = 1.0) -> dict[str, Any]:
    return {"ours": row(ours), "TRL batch": row(peer, busy)}


def test_with_one_thread_a_round_is_quiet_where_both_sides_had_the_processor(
    rounds: ModuleType,
) -> None:
    given = [both(1, 2, busy=share) for share in (0.99, 0.91, 0.89, 0.5)]
    assert rounds.quiet(given, threads=1) == given[:2]


def test_with_several_threads_a_round_is_measured_by_the_best_one(rounds: ModuleType) -> None:
    given = [both(1, 2, busy=share) for share in (1.6, 1.5, 1.4, 1.0)]
    assert rounds.quiet(given, threads=2) == given[:2]  # 0.9 × 1.6 = 1.44


def test_ratios_are_medians_of_the_quiet_rounds_ratios(rounds: ModuleType) -> None:
    given = [both(1, 4), both(2, 6), both(4, 4), both(1, 100, busy=0.5)]
    summary = rounds.summarize(given, threads=1)
    assert (summary["rounds"], summary["quiet"]) == (4, 3)
    # 4, 3 and 1; the ratio of medians would be 2
    assert summary["ratio"]["TRL batch"]["total"] == 3
    assert summary["ratio"]["TRL batch"]["tokens_per_second"] == pytest.approx(3)
    assert summary["ratio"]["TRL batch"]["peak_mb"] == 3
    assert summary["median"]["ours"]["total"] == 2
    assert summary["median"]["TRL batch"]["rollout"] == 2
    assert "4 rounds, 1 disturbed and dropped" in rounds.remark(summary)


def test_without_a_quiet_round_all_are_used_and_it_is_said(rounds: ModuleType) -> None:
    given = [both(1, 3, busy=0.5), both(1, 5, busy=0.6), both(1, 7, busy=0.4)]
    summary = rounds.summarize(given, threads=1)
    assert summary["quiet"] == 0
    assert summary["ratio"]["TRL batch"]["total"] == 5
    remark = rounds.remark(summary)
    assert remark.startswith("NO QUIET ROUND among 3")
    assert "TRL batch 0.50" in remark


def test_the_table_has_a_line_for_each_figure(rounds: ModuleType) -> None:
    lines = rounds.table(rounds.summarize([both(1.5, 3)], threads=1)).splitlines()
    assert lines[0].split() == ["ours", "TRL", "batch", "×", "TRL", "batch"]
    assert lines[4].split() == ["total,", "s", "1.5", "3", "2.00"]
    assert lines[7].split() == ["peak", "memory,", "MB", "150", "300", "2.00"]
    assert lines[8].split() == ["tokens", "per", "second", "13.3", "6.67", "2.00"]


def test_equal_work_is_found_equal(rounds: ModuleType) -> None:
    given = [{"ours": row(), "TRL batch": row(scored_tokens=426)}]
    assert rounds.differences(given, 2, LENGTH, VOCABULARY) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("parameters", 5001, "5001 parameters, ours has 5000"),
        ("response_tokens", 19, "19 response tokens, 20 expected"),
        ("prompt_tokens", 401, "401 prompt tokens, ours has 400"),
        ("scored_tokens", 20, "20 tokens were scored, by ours 420"),
        ("policy_loss", math.nan, "the losses are nan"),
        ("value_loss", math.inf, "the losses are"),
        ("value_loss", -1.0, "the losses are"),
        ("entropy", math.log(VOCABULARY), "the entropy is"),
        ("moved", 0.0, "the adapter didn't change"),
    ],
)
def test_a_side_that_did_something_else_is_named(
    rounds: ModuleType, field: str, value: float, words: str
) -> None:
    given = [both(1, 1), {"ours": row(), "TRL batch": row(**{field: value})}]
    (found,) = rounds.differences(given, 2, LENGTH, VOCABULARY)
    assert found.startswith(f"round 2, TRL batch: {words}")


class Driver:
    """Asks for rounds and notes the answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[dict[str, Any]] = []

    def wait(self) -> None:
        self.asked += 1

    def answer(self, **row: Any) -> None:
        self.answers.append(row)


@pytest.mark.slow
def test_our_side_does_the_rounds_that_it_is_asked_for(rounds: ModuleType, tmp_path: Path) -> None:
    world, ours = (importlib.import_module(f"peer.{name}") for name in ("world", "ours"))
    t5, judge = world._t5(16, 16, 1, 2, 8), world._roberta(16, 1, 2)
    world.build(tmp_path, world.Shape(VOCABULARY, t5, judge), prompts=6)
    sizes = {"batch_size": 2, "mini_batch_size": 1, "ppo_epochs": 1, "new_tokens": LENGTH}
    job = {"device": "cpu", "dtype": "float32", "threads": 1, **sizes, "rounds": 2}
    driver = Driver()
    ours.train({**job, "folder": str(tmp_path)}, driver)
    assert driver.answers[0] == {}  # ready
    rows = [rounds.with_rates(row) for row in driver.answers[1:]]
    assert driver.asked == len(rows) == 2
    written = [json.loads(line)["dialogue"] for line in (tmp_path / "prompts.jsonl").open()]
    asked = [text for row in rows for text in row["prompts"]]
    assert len(set(asked)) == 4
    assert set(asked) <= set(written)
    assert rounds.differences([{"ours": row} for row in rows], 2, LENGTH, VOCABULARY) == []
    for each in rows:
        words = [text.count(" ") + 1 for text in each["prompts"]]
        assert each["prompt_tokens"] == sum(words) + 2  # EOS
        # start and end; a response's first word is glued to the prompt's last
        assert each["scored_tokens"] == pytest.approx(sum(words) + 2 * (LENGTH - 1 + 2), abs=2)
        assert each["rollout"] + each["score"] + each["update"] <= each["total"] <= each["round"]
        assert each["tokens_per_second"] == 20 / each["total"]
        # two steps of Adam
        assert each["moved"] == pytest.approx(2 * 1.41e-5, rel=0.2)


SCRIPT = """
import json, sys
print(json.dumps(json.loads(sys.argv[1])["threads"]), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order["number"] == 2:
        sys.exit("out of memory")
    print(json.dumps({"number": order["number"] + 1}), flush=True)
"""


@pytest.fixture
def job(command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "ours.py").write_text(SCRIPT)
    monkeypatch.setattr(command, "PARTS", tmp_path)
    return {"device": "cpu", "threads": 3, "folder": str(tmp_path)}


def test_a_side_answers_round_by_round_and_ends_when_no_more_is_asked(
    command: ModuleType, job: dict[str, Any]
) -> None:
    with command.Side("ours", Path(sys.executable), job) as side:
        assert side.round(number=0) == {"number": 1}
        assert side.round(number=5) == {"number": 6}
    assert side.process.returncode == 0


def test_a_side_that_stops_is_quoted(command: ModuleType, job: dict[str, Any]) -> None:
    with (
        pytest.raises(SystemExit, match=r"ours has stopped \(exit 1\):\nout of memory"),
        command.Side("ours", Path(sys.executable), job) as side,
    ):
        side.round(number=2)

"""The benchmark of a GPU says which rows fail, for which no time is left, which targets are met."""

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


def test_a_row_that_takes_too_long_is_ended(
    parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if something swallows the first exception, as a finalizer does."""
    monkeypatch.setattr(parts.deadline, "AGAIN", 0.01)
    before, swallowed = signal.getsignal(signal.SIGALRM), []

    def work() -> None:
        while True:
            try:
                while True:
                    pass
            except parts.deadline.TimeUp:
                swallowed.append(1)
                if len(swallowed) == 2:
                    raise

    deadline = parts.deadline.Deadline(0.05)
    with pytest.raises(parts.deadline.TimeUp):
        deadline.call(work)
    with pytest.raises(parts.deadline.TimeUp):
        deadline.call(lambda: pytest.fail("there was no time left"))
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_error_about_the_missing_time_is_no_failure(
    parts: SimpleNamespace, tmp_path: Path
) -> None:
    """A reward's errors are worded anew, whatever they are."""

    def work() -> None:
        try:
            while True:
                pass
        except parts.deadline.TimeUp as error:
            raise ValueError("the reward failed with TimeUp") from error

    row = parts.command.outcome(work, parts.deadline.Deadline(0.05), tmp_path / "log")
    assert row == {"remark": "no time left"}


def uncapturable() -> dict[str, Any]:
    warnings.warn("the decode step can't be captured and stays slow: why", stacklevel=1)
    return {"x": 1}


def failing() -> dict[str, Any]:
    print("lost")
    raise ValueError("first\nsecond")


def stopping() -> dict[str, Any]:
    raise SystemExit


def test_each_row_fails_on_its_own(
    parts: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    works: list[Callable[[], Any]] = [lambda: {"x": 1}, failing, stopping, uncapturable]
    cases = [parts.sections.Case({"row": i}, work) for i, work in enumerate(works)]
    table = parts.report.Table("Title", {"row": "row", "x": "x"})
    sections = {"one": parts.sections.Section(table, lambda bench: iter(cases))}
    monkeypatch.setattr(parts.sections, "SECTIONS", sections)
    files = tmp_path / "all.json", tmp_path / "all.md"
    report = parts.report.Report(*files)
    bench = SimpleNamespace(folder=tmp_path)
    deadline = parts.deadline.Deadline(60)
    assert parts.command.measure(bench, ["one"], deadline, report) == 2
    deadline.end = time.monotonic()
    report.add("one", table, {"row": 4} | parts.command.outcome(failing, deadline, tmp_path / "l"))
    text = """\
## Title

| row | x |  |
| --- | --- | --- |
| 0 | 1 |  |
| 1 |  | failed: ValueError: first second |
| 2 |  | failed: SystemExit: without a reason |
| 3 | 1 | the decode step can't be captured and stays slow: why |
| 4 |  | no time left |
"""
    assert files[1].read_text(encoding="utf8") == text
    assert text in capsys.readouterr().out
    rows = json.loads(files[0].read_text(encoding="utf8"))["one"]
    assert [row.get("x") for row in rows] == [1, None, None, 1, None]


def test_cells(parts: SimpleNamespace) -> None:
    values = [None, True, False, 1234, 1234.6, 0.01234, -0.5, "a|b"]
    cells = ["–", "yes", "no", "1,234", "1,235", "0.0123", "-0.5", "a/b"]
    assert [*map(parts.report.cell, values)] == cells


# -- verdicts


@pytest.fixture
def measured(parts: SimpleNamespace) -> Any:
    """A report of which everything was measured but TRL one at a time."""
    report = parts.report.Report()
    t5 = {"model": "FLAN-T5-base", "rows": 8}
    report.rows = {
        "machine": [{"card": "A card"}],
        "step": [
            {**t5, "precision": "float32", "rows": 64, "times": 1.0},
            {**t5, "precision": "float32", "times": 4.0},
            {**t5, "precision": "bf16-mixed", "times": 4.1},
        ],
        "rollout": [{**t5, "precision": "float32", "total": 0.5}],
        "peer": [
            {"way": "batch", "rows": 64, "total": 10.0, "memory": 0.66},
            {"way": "single", "rows": 64, "remark": "no time left"},
        ],
    }
    return report


def test_targets_are_met_missed_or_not_measured(parts: SimpleNamespace, measured: Any) -> None:
    bench = SimpleNamespace(scale=parts.shapes.FULL, dry=False)
    rows = [target.row for target in parts.targets.targets(measured, bench)]
    assert [row["found"] for row in rows] == [4.0, 4.1, 0.5, 10.0, None, 0.66]
    verdicts = ["met", "missed", "missed", "met", "not measured", "missed"]
    assert [row["remark"] for row in rows] == verdicts
    assert parts.targets.answer(measured, bench) == (
        "On A card, a rollout of 8 responses of 100 tokens by FLAN-T5-base takes 0.5 s with "
        "scoring and update: 7,200 rollouts an hour."
    )


def test_a_dry_run_measures_nothing(parts: SimpleNamespace, measured: Any) -> None:
    bench = SimpleNamespace(scale=parts.shapes.FULL, dry=True)
    rows = [target.row for target in parts.targets.targets(measured, bench)]
    assert {row["remark"] for row in rows} == {"not measured"}
    assert "mean nothing" in parts.targets.answer(measured, bench)


# -- the command


def test_it_names_all_sections(parts: SimpleNamespace) -> None:
    assert tuple(parts.sections.SECTIONS) == parts.command.NAMES
    options = parts.command.read_options([])
    assert options.sections == [*parts.command.NAMES[:-1]]
    assert (options.seconds, options.device) == (470, "cuda")
    options = parts.command.read_options([f"--peer_python={sys.executable}", "--dry-run"])
    assert options.sections == [*parts.command.NAMES]
    assert options.dry_run


@pytest.mark.parametrize("words", [[], ["--peer_python=/nowhere"]])
def test_the_peer_needs_its_environment(
    parts: SimpleNamespace, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parts.command.read_options(["--sections", "peer", *words])
    assert "--sections peer needs --peer_python" in capsys.readouterr().err


@pytest.mark.usefixtures("unchanged")
def test_without_a_gpu_it_says_so(parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees no GPU here; --device cpu --dry_run"):
        parts.command.main([])


@pytest.mark.usefixtures("unchanged")
def test_no_time_for_anything(parts: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """All rows are named."""
    parts.command.main(["--device=cpu", "--dry_run", "--seconds=0"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("| no time left |") for line in lines) == 1 + 8 + 8 + 4 + 2 + 2
    assert sum(line.endswith("| not measured |") for line in lines) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("unchanged")
def test_a_dry_run_of_everything(
    parts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    parts.command.main(["--device", "cpu", "--dry_run", "--json", str(file)])
    rows = json.loads(file.read_text(encoding="utf8"))
    counts = {name: len(found) for name, found in rows.items()}
    assert counts == {
        **{"machine": 1, "step": 8, "rollout": 8, "equality": 4},
        **{"update": 2, "resume": 2, "targets": 6},
    }
    named = [row for name, found in rows.items() if name != "targets" for row in found]
    assert {row["remark"] for row in named} == {""}
    assert all(row["again"] and row["base"] for row in rows["equality"])
    assert all(row["equal"] and row["moved"] > 1e-3 for row in rows["resume"])
    assert all(abs(row["ratio"]) < 1e-6 for row in rows["update"])
    assert "figures mean nothing" in capsys.readouterr().out

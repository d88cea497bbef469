"""The soak run: what is read of a process, slopes, levels, and the verdict."""

import gc
import importlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from command import ROOT, IdleCLI, module_of
from ppo_toys import fit, make_module

FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def path() -> Iterator[None]:
    """The benchmark's parts can be imported from, as they are when it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield


@pytest.fixture(scope="module")
def command(path: None) -> ModuleType:
    return module_of(FOLDER / "soak.py", "soak_command")


@pytest.fixture(scope="module")
def verdict(path: None) -> ModuleType:
    return importlib.import_module("soak.verdict")


@pytest.fixture(scope="module")
def readings(path: None) -> ModuleType:
    return importlib.import_module("soak.readings")


def run(readings: ModuleType, count: int = 51, **changed: Any) -> list[Any]:
    """Readings every 20 rollouts of 2 and 1 CPU seconds; a change is a function of rollouts."""
    level = {"rss": 900.0, "pss": 800.0, "uss": 700.0, "folder": 1.0}
    level |= {"handles": 6, "threads": 5, "children": 0}
    rows = []
    for n in range(0, 20 * count, 20):
        row = {"rollouts": n, "wall": 2.0 * n, "cpu": 1.0 * n, "tokens": 850 * n, **level}
        rows.append(readings.Reading(**row | {name: f(n) for name, f in changed.items()}))
    return rows


def test_the_slope_is_per_100_rollouts_and_odd_readings_do_not_move_it(
    verdict: ModuleType, readings: ModuleType
) -> None:
    def rss(n: int) -> float:
        return 2000.0 if n in (400, 420, 900) else 900 + 0.0075 * n

    given = run(readings, rss=rss)
    assert verdict.slope(given, "rss") == pytest.approx(0.75, abs=1e-9)
    assert verdict.slope(given, "uss") == 0


def test_the_first_fifth_is_left_out(verdict: ModuleType, readings: ModuleType) -> None:
    given = run(readings, rss=lambda n: 500.0 + min(n, 200), handles=lambda n: min(3 + n // 50, 7))
    kept = verdict.settled(given)
    assert [kept[0].rollouts, kept[-1].rollouts, len(kept)] == [200, 1000, 41]
    summary = verdict.summarize(given)
    assert (summary["from_rollout"], summary["slope"]["rss"]) == (200, 0)
    assert verdict.broken(summary) == []


def test_too_few_readings_are_no_judgement(verdict: ModuleType, readings: ModuleType) -> None:
    words = "6 readings after the warm-up, 8 are the fewest to judge by: give more --seconds"
    with pytest.raises(SystemExit, match=words):
        verdict.summarize(run(readings, 8))
    with pytest.raises(SystemExit, match="0 readings after"):
        verdict.summarize([])


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"rss": lambda n: 900 + 0.0099 * n}, None),
        (
            {"rss": lambda n: 900 + 0.011 * n},
            "resident memory grows by 1.10 MB per 100 rollouts, 1 is the bound",
        ),
        ({"uss": lambda n: 700 + 0.5 * n}, None),  # reported, not judged
        ({"handles": lambda n: 6 + n // 1000}, "handles grow from 6 to 7"),
        ({"handles": lambda n: 9 if n == 500 else 6}, None),  # and closed again
        ({"threads": lambda n: 5 + n // 500}, "threads grow from 5 to 7"),
        ({"children": lambda n: n // 600}, "children grow from 0 to 1"),
        ({"wall": lambda n: n**2 / 50}, None),  # other programs' doing
        ({"cpu": lambda n: n + max(0, n - 600) * 0.09}, None),
        (
            {"cpu": lambda n: n + max(0, n - 600) * 0.12},
            "the last quarter's rollouts take 1.12 times the CPU seconds of the first quarter's, "
            "1.1 is the bound",
        ),
        ({"rss": lambda n: float("nan")}, "resident memory grows by nan MB per 100 rollouts, 1 is"),
    ],
)
def test_the_verdict_names_the_bound_that_is_broken(
    verdict: ModuleType, readings: ModuleType, changed: dict[str, Any], line: str | None
) -> None:
    found = verdict.broken(verdict.summarize(run(readings, **changed)))
    assert len(found) == (line is not None)
    assert not found or found[0].startswith(line)


def test_the_table_has_first_last_most_and_slopes(
    verdict: ModuleType, readings: ModuleType
) -> None:
    given = run(readings, rss=lambda n: 900 + 0.01 * n, handles=lambda n: 8 if n == 500 else 6)
    rows = [line.split() for line in verdict.table(verdict.summarize(given)).splitlines()]
    assert rows[0][:5] == ["1000", "rollouts", "in", "2000", "s;"]
    assert rows[2][-4:] == ["902.0", "910.0", "910.0", "+1.000"]
    assert rows[6] == ["open", "handles", "6", "6", "8"]
    assert rows[10][-3:] == ["1.000", "1.000", "1.000"]  # CPU seconds
    assert rows[11][-3:] == ["2.000", "2.000", "1.000"]
    assert rows[12] == ["tokens", "a", "rollout", "850.0", "850.0", "1.000"]


@pytest.mark.slow
def test_a_training_process_is_read_between_rollouts(
    readings: ModuleType, tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    meter = importlib.import_module("soak.meter").Meter(tmp_path / "readings.jsonl", every=2)
    opened = []

    class Opens(type(meter)):  # type: ignore[misc]
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            opened.append((tmp_path / "readings.jsonl").open())

    meter.__class__ = Opens
    module = make_module(tiny_t5, tiny_classifier)
    gc.collect()  # so that no file of an earlier test is closed meanwhile
    try:
        fit(tmp_path, module, 5, callbacks=meter)
    finally:
        for file in opened:
            file.close()
    given = readings.read_file(tmp_path / "readings.jsonl")
    assert [x.rollouts for x in given] == [0, 2, 4]
    assert [b.handles - a.handles for a, b in pairwise(given)] == [2, 2]
    lengths = [int(step.responses.mask.sum()) for step in module.watched]
    assert [x.tokens for x in given] == [0, sum(lengths[:2]), sum(lengths[:4])]
    assert given[0].cpu == 0 < given[1].cpu < given[2].cpu
    assert all(x.rss > 100 for x in given)
    size = (tmp_path / "readings.jsonl").stat().st_size / 1e6
    assert given[-1].folder < size
    assert os.getpid() == meter.process.pid


def test_the_run_is_the_demo_ended_by_time(command: ModuleType, tmp_path: Path) -> None:
    words = command.words(tmp_path, 93_784)
    made = IdleCLI([*words, "--trainer.accelerator=cpu"])
    (timer,) = (x for x in made.trainer.callbacks if type(x).__name__ == "Timer")
    assert timer.time_remaining() == 93_784  # a day, two hours, three minutes, four seconds
    assert made.model.policy_name == "demo:policy"
    assert made.config.trainer.logger.init_args.save_dir == str(tmp_path / "runs")
    assert made.config.trainer.limit_train_batches == command.EPOCH


def test_a_folder_of_another_run_is_refused(command: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "readings.jsonl").touch()
    with pytest.raises(SystemExit, match="it has readings of another run; name a new folder"):
        command.soak(tmp_path, 20, [])


def test_the_picture_shows_memory_handles_and_speed(
    path: None, readings: ModuleType, tmp_path: Path
) -> None:
    importlib.import_module("soak.picture").draw(run(readings), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")

"""How far an evaluation is, and how long it will take."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from command import run, tiny_recipe
from detox_lightning.callbacks import evaluation_pace
from detox_lightning.callbacks.evaluation_pace import EvaluationPaceCallback


def said(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], total: float, bar: Any = None
) -> list[str]:
    """What is told of a test of which as many batches are done as there are times."""
    lines: list[str] = []
    times = iter([0.0, *seconds])
    clock = SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr(evaluation_pace, "time", clock)
    monkeypatch.setattr(evaluation_pace, "rank_zero_info", lines.append)
    state = SimpleNamespace(fn=TrainerFn.TESTING)
    trainer: Any = SimpleNamespace(
        state=state, progress_bar_callback=bar, num_test_batches=[total - 1, 1]
    )
    callback = EvaluationPaceCallback()
    callback.on_test_start(trainer, trainer)
    for _ in seconds:
        callback.on_test_batch_end(trainer)
    return lines


@pytest.mark.parametrize(
    ("seconds", "total", "lines"),
    [
        # 25 seconds a batch: the first one, then after more than a minute
        (
            [25, 50, 75, 100, 125],
            9,
            ["batch 1 of 9 · about 3 min 20 s left", "batch 4 of 9 · about 2 min 5 s left"],
        ),
        ([25, 50, 75], 3, []),  # it is over within a minute
        ([100, 200], 2, ["batch 1 of 2 · about 1 min 40 s left"]),  # after the last one, it is over
        ([1, 100, 150], float("inf"), ["batch 2"]),  # nobody knows how many there are
    ],
)
def test_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], total: float, lines: list[str]
) -> None:
    assert said(monkeypatch, seconds, total) == [f"test: {line}" for line in lines]


def test_a_progress_bar_needs_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, [100, 200], 3, bar=object()) == []


def test_each_command_that_evaluates_says_it(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hours = itertools.count(step=3600)
    clock = SimpleNamespace(monotonic=lambda: next(hours))
    monkeypatch.setattr(evaluation_pace, "time", clock)
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    trained = run("fit", "--config", recipe)
    assert trained.code == 0, trained.err
    assert "batch" not in trained.err  # its own lines say it
    for command in ("validate", "test", "predict"):
        words = ("--ckpt_path", "last", "--data.eval_batch_size=1")
        outcome = run(command, "--config", recipe, *words)
        assert outcome.code == 0, outcome.err
        assert f"{command}: batch 1 of " in outcome.err

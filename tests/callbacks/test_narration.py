"""What a run says in a terminal and in a log file."""

import io
import itertools
import re
import shlex
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.live import Live

from command import run, tiny_recipe
from detox_lightning.batches import PromptBatch
from detox_lightning.callbacks import narration
from detox_lightning.callbacks.narration import NarrationCallback, duration
from detox_lightning.cli.process import isolated
from detox_lightning.evaluation.evaluator import Evaluator


def slow_first_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the clock on by an hour while a run is evaluated that hasn't begun to learn."""
    seconds, evaluate = itertools.count(), Evaluator.validate
    ahead = [0]

    def validate(evaluator: Evaluator, batch: PromptBatch) -> Any:
        ahead[0] = 3600
        return evaluate(evaluator, batch)

    monkeypatch.setattr(Evaluator, "validate", validate)
    clock = SimpleNamespace(monotonic=lambda: next(seconds) + ahead[0])
    monkeypatch.setattr(narration, "time", clock)


def test_a_run_says_what_it_does_and_what_comes_next(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    slow_first_validation(monkeypatch)
    outcome = run("fit", "--config", tiny_recipe(tmp_path, tiny_t5, tiny_classifier))
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "runs" / "tiny" / "version_0"
    expected = [
        r"[\d,]+ of [\d,]+ parameters learn \(\d+\.\d %\)",
        f"The run's folder is {folder}",
        "2 rollouts to do",
        r"rollout 0 of 2 · toxicity \d\.\d{3} · ROUGE-L .* · length \d+\.\d",
        r"rollout 1 of 2 · KL -?\d\.\d\d · score -?\d\.\d\d · about \d+ s left",
        r"rollout 2 of 2 · toxicity \d\.\d{3} → \d\.\d{3} · ROUGE-L \d\.\d{3} · .*",
        f"The trained model is in {folder}/adapter",
        r"Validation before → after: toxicity \d\.\d{3} → \d\.\d{3} · ROUGE-L .* → .*",
        f"Evaluate it: python -m detox_lightning test --ckpt_path {folder}",
        f"See its curves: tensorboard --logdir {tmp_path}/runs",
    ]
    said = [line.removeprefix("INFO: ") for line in outcome.err.splitlines()]
    rest = iter(said)  # in this order
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in rest), (pattern, said)
    assert "`Trainer.fit` stopped" not in outcome.err  # the last lines say that it has ended
    (command,) = (line for line in said if line.startswith("Evaluate it: "))
    tested = run(*shlex.split(command.partition(": ")[2])[3:])
    assert tested.code == 0, tested.err
    (tmp_path / "others").mkdir()
    for file in tmp_path.glob("*.jsonl"):
        shutil.copy(file, tmp_path / "others")
    other = ("--data.source", str(tmp_path / "others"), "--trainer.max_epochs=2")
    resumed = run("fit", "--ckpt_path", "last", *other)
    assert resumed.code == 0, resumed.err
    assert "Last validation: toxicity " in resumed.err
    assert re.findall(r"\d → \d\.", resumed.err) == []  # two data sets don't compare


@pytest.fixture(scope="module")
def unvalidated(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[str]]:
    """A recipe, the folder of its run, in which nothing was validated, and the lines it said."""
    folder = tmp_path_factory.mktemp("unvalidated")
    recipe = tiny_recipe(folder, tiny_t5, tiny_classifier)
    flags = ("--data.validation_split=null", "--checkpoint.every_n_batches=1")
    with warnings.catch_warnings(record=True) as caught:
        outcome = run("fit", "--config", recipe, *flags)
    assert outcome.code == 0, outcome.err
    lines = [*(str(warning.message) for warning in caught), *outcome.err.splitlines()]
    return recipe, folder / "runs" / "tiny" / "version_0", lines


def test_a_run_without_validation_has_an_end(unvalidated: tuple[str, Path, list[str]]) -> None:
    _, folder, said = unvalidated
    end = [
        f"The trained model is in {folder}/adapter",
        r"Last rollout: KL -?\d\.\d\d · score -?\d\.\d\d",
        f"Evaluate it: python -m detox_lightning test --ckpt_path {folder}",
        f"See its curves: tensorboard --logdir {folder.parents[1]}",
    ]
    last = [line.removeprefix("INFO: ") for line in said[-4:]]
    assert [bool(re.fullmatch(*both)) for both in zip(end, last, strict=True)] == [True] * 4, said
    assert not [line for line in said if "Total length" in line]  # of the validation's batches


def test_each_rollout_is_told_once(unvalidated: tuple[str, Path, list[str]]) -> None:
    """The first rollout after a resume is also the last before a validation."""
    recipe, folder, _ = unvalidated
    checkpoint = folder / "checkpoints" / "previous.ckpt"
    outcome = run("fit", "--config", recipe, f"--ckpt_path={checkpoint}")
    assert outcome.code == 0, outcome.err
    lines = re.findall(r"^(?:INFO: )?(rollout .*)", outcome.err, re.MULTILINE)
    assert [" ".join(line.split()[:6]) for line in lines] == ["rollout 2 of 2 · toxicity"]


def test_the_bar_erases_no_line() -> None:
    """Rich moves the cursor over what is written past it, and lets stand what it is handed."""
    shown = io.StringIO()
    with isolated(), Live("bar", console=Console(file=shown, force_terminal=True, width=80)):
        rank_zero_info("where the model is")
    assert "where the model is" in shown.getvalue()


class OwnBar(RichProgressBar):
    """A user's, who may show what they like."""

    def get_metrics(self, *_: Any) -> dict[str, Any]:
        return {"mine": 1}


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (RichProgressBar, {"kl": "0", "score": "-0.123", "train/loss": "12", "odd": "nan"}),
        (TQDMProgressBar, {"kl": "0", "score": "-0.123", "train/loss": "12", "odd": "nan"}),
        (OwnBar, {"mine": 1}),
    ],
)
def test_the_bar_has_short_figures(kind: Any, shown: dict[str, Any]) -> None:
    figures = {"kl": -1e-8, "score": -0.12345, "train/loss": 12.0, "odd": float("nan")}
    logger = SimpleNamespace(version=3)
    trainer: Any = SimpleNamespace(
        progress_bar_callback=kind(), progress_bar_metrics=figures, loggers=[logger]
    )
    stage: Any = None
    NarrationCallback().setup(trainer, stage, "fit")
    assert trainer.progress_bar_callback.get_metrics(trainer, stage) == shown


@pytest.mark.parametrize(
    ("seconds", "said"), [(50.4, "50 s"), (70, "1 min 10 s"), (7500, "2 h 5 min"), (0, "0 s")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def resume(state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> NarrationCallback:
    """The callback of a run that measures as its checkpoint's did."""
    monkeypatch.setattr(narration, "measures_alike", lambda *_: True)
    callback, none = NarrationCallback(), cast(Any, None)
    callback.on_load_checkpoint(none, none, {"callbacks": {callback.state_key: state}})
    return callback


def test_a_resumed_run_compares_with_the_figures_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = NarrationCallback()
    first.baseline = {"toxicity": 0.5}
    resumed = resume(first.state_dict(), monkeypatch)
    resumed.newest = {"toxicity": 0.25, "kl": 1.0}
    assert resumed._figures(["toxicity"]) == ["toxicity 0.500 → 0.250", "KL 1.00"]


def test_without_figures_from_before_there_is_no_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervised and the reward stage validate for the first time after some training."""
    said: list[str] = []
    monkeypatch.setattr(narration, "rank_zero_info", said.append)
    callback = NarrationCallback()
    callback.newest, callback.has_ended = {"loss": 1.0}, True
    trainer: Any = SimpleNamespace(progress_bar_callback=None, checkpoint_callback=None, loggers=[])
    callback.teardown(trainer, None, "fit")  # type: ignore[arg-type]
    assert said == ["Last validation: loss 1.000"]


def test_figures_of_a_strange_checkpoint_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume({"baseline": {"toxicity": "x", "kl": 1}}, monkeypatch).baseline == {"kl": 1.0}
    assert resume({}, monkeypatch).baseline == {}

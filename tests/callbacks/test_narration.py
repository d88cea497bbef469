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
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.live import Live
from tqdm import tqdm

from command import Outcome, run, tiny_recipe
from detox_lightning.batches import PromptBatch
from detox_lightning.callbacks import narration, pace
from detox_lightning.callbacks.narration import NarrationCallback
from detox_lightning.cli.process import isolated
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.runs.checkpointing import BoundedCheckpoint


def slow_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the clock on by an hour at each batch of a validation, and by a second otherwise."""
    seconds, evaluate = itertools.count(), Evaluator.validate
    ahead = [0]

    def validate(evaluator: Evaluator, batch: PromptBatch) -> Any:
        ahead[0] += 3600
        return evaluate(evaluator, batch)

    monkeypatch.setattr(Evaluator, "validate", validate)
    clock = SimpleNamespace(monotonic=lambda: next(seconds) + ahead[0])
    for module in (narration, pace):
        monkeypatch.setattr(module, "time", clock)


def lines_of(outcome: Outcome) -> list[str]:
    """What it said, with the lines that were too wide for 80 columns as one."""
    return re.sub(r" ·\n  ", " · ", outcome.err.replace("INFO: ", "")).splitlines()


def assert_said(expected: list[str], said: list[str]) -> None:
    """Asserts that lines that match these patterns were said, in this order."""
    rest = iter(said)
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in rest), (pattern, said)


def test_a_run_says_what_it_does_and_what_comes_next(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    slow_validations(monkeypatch)
    outcome = run("fit", "--config", tiny_recipe(tmp_path, tiny_t5, tiny_classifier))
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "runs" / "tiny" / "version_0"
    what = (
        f"tiny/version_0: {tiny_t5} trained on {tmp_path} \\(ppo\\), 2 rollouts in 4 h 0 min on CPU"
    )
    figures = r"toxicity \d\.\d{3} → \d\.\d{3} · ROUGE-L \d\.\d{3} → .*"
    expected = [
        r"[\d,]+ of [\d,]+ parameters learn \(\d+\.\d %\)",
        f"The run's folder is {folder}",
        "2 rollouts to do",
        r"rollout 0 of 2 · toxicity \d\.\d{3} · ROUGE-L .* · length \d+\.\d",
        r"rollout 1 of 2 · about 2 h 0 min left · \d+\.\d s a rollout"
        r" · KL -?\d\.\d\d · score -?\d\.\d\d",
        r"rollout 2 of 2 · \d+\.\d s a rollout"
        r" · toxicity \d\.\d{3} → \d\.\d{3} · ROUGE-L \d\.\d{3} · .*",
        f"The trained model is in {folder}/adapter",
        rf"{what}\. Validation before → after: {figures}",
        f"Evaluate it: python -m detox_lightning test --ckpt_path {folder}",
        f"See its curves: tensorboard --logdir {tmp_path}/runs",
    ]
    said = lines_of(outcome)
    assert_said(expected, said)
    plain = outcome.err.replace("INFO: ", "").splitlines()
    assert max(len(line) for line in plain if line.startswith("rollout ")) <= 80
    assert f"{(folder / 'summary.txt').read_text(encoding='utf8')}" == f"{said[-3]}\n"
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
    # the first part's two validations of two batches, and one more
    assert re.search(r"4 rollouts in 6 h 0 min on CPU\. Last validation: toxicity ", resumed.err)
    assert re.findall(r"\d → \d\.", resumed.err) == []  # two data sets don't compare


def test_the_best_checkpoint_is_told(tmp_path: Path, tiny_t5: str, tiny_classifier: str) -> None:
    """The KL coefficient falls in every rollout, as the policy stays near the reference."""
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    folder = tmp_path / "runs" / "tiny" / "version_0"
    best = ("--checkpoint.monitor=objective/kl_coef", "--checkpoint.mode=max")
    words = ("--config", recipe, "--trainer.limit_train_batches=1", *best)
    outcome = run("fit", *words, "--trainer.max_epochs=2")
    assert outcome.code == 0, outcome.err
    told = r".* · best objective/kl_coef 0\.\d{3} at rollout 1 · .*"
    said = lines_of(outcome)
    assert_said(
        [
            r"rollout 0 of 2 · toxicity \d\.\d{3} · ROUGE-L .*",
            r"rollout 1 of 2 · .* · best objective/kl_coef so far · .*",
            f"rollout 2 of 2{told}",
            f"tiny/version_0: .* 2 rollouts in {told}",
            f"Evaluate it: .* --ckpt_path {folder}",
            rf"The best: python -m .* test --ckpt_path '?{folder}/checkpoints/epoch=0-step=\d+.*",
        ],
        said,
    )
    (line,) = (line for line in said if line.startswith("The best: "))
    assert Path(shlex.split(line)[-1]).is_file()
    resumed = run("fit", *words, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert resumed.code == 0, resumed.err
    assert_said(
        [f"rollout 3 of 3{told}", f"tiny/version_0: .* 3 rollouts in {told}"], lines_of(resumed)
    )
    assert "best objective/kl_coef so far" not in resumed.err


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
        r"tiny/version_0: .*\. Last rollout: KL -?\d\.\d\d · score -?\d\.\d\d",
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
    (line,) = (line for line in lines_of(outcome) if line.startswith("rollout "))
    assert re.match(r"rollout 2 of 2 · [^·]* · toxicity ", line)


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
def test_the_bar_has_short_figures(
    kind: Any, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    figures = {"kl": -1e-8, "score": -0.12345, "train/loss": 12.0, "odd": float("nan")}
    logger = SimpleNamespace(version=3)
    trainer: Any = SimpleNamespace(
        progress_bar_callback=kind(),
        progress_bar_metrics=figures,
        loggers=[logger],
        checkpoint_callback=None,
    )
    stage: Any = None
    NarrationCallback().setup(trainer, stage, "fit")
    assert trainer.progress_bar_callback.get_metrics(trainer, stage) == shown


class Begun:
    """A stage that has done a rollout."""

    stage_name, rollouts = "ppo", 1


@pytest.mark.parametrize(
    ("kind", "columns", "figures"),
    [
        (RichProgressBar, 80, {"kl": "0.12", "score": "-1.23"}),  # it has several lines
        (TQDMProgressBar, 120, {"kl": "0.12", "score": "-1.23"}),
        (TQDMProgressBar, 80, {"score": "-1.23"}),
        (TQDMProgressBar, 40, {}),
    ],
)
def test_the_bar_has_the_time_left_and_the_best(
    kind: Any, columns: int, figures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    narrator, checkpoint, stage = NarrationCallback(), BoundedCheckpoint(), cast(Any, Begun())
    checkpoint.best_model_score, checkpoint.best_at = torch.tensor(0.1131), 40
    monkeypatch.setattr(narrator.pace, "seconds_left", lambda *_: 725)
    trainer: Any = SimpleNamespace(
        progress_bar_callback=kind(),
        progress_bar_metrics={"kl": 0.12, "score": -1.23},
        checkpoint_callback=checkpoint,
    )
    narrator.setup(trainer, stage, "fit")
    found = trainer.progress_bar_callback.get_metrics(trainer, stage)
    ours = {"left": "12\xa0min", "best": "0.113\xa0at\xa040"}
    assert found == {**figures, **ours}


def test_tqdm_has_room_for_them() -> None:
    shown = io.StringIO()
    bar = tqdm(total=250, ncols=80, file=shown, desc="Epoch 1", bar_format=narration.TQDM)
    bar.set_postfix({"score": "-1.23", "left": "12 min", "best": "0.113 at 40"})
    assert shown.getvalue().rstrip().endswith(", score=-1.23, left=12 min, best=0.113 at 40]")


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
    first.baseline, first.pace.seconds_before = {"toxicity": 0.5}, 75.0
    resumed = resume(first.state_dict(), monkeypatch)
    resumed.newest = {"toxicity": 0.25, "kl": 1.0}
    assert resumed._figures(["toxicity"]) == ["toxicity 0.500 → 0.250", "KL 1.00"]
    assert resumed.pace.seconds == 75


def test_without_figures_from_before_there_is_no_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervised and the reward stage validate for the first time after some training."""
    callback = NarrationCallback()
    monkeypatch.setattr(callback, "_what", lambda *_: "a run")
    callback.newest = {"loss": 1.0}
    trainer: Any = SimpleNamespace(checkpoint_callback=None, global_step=1)
    callback.on_fit_end(trainer, cast(Any, Begun()))
    assert callback.summary == "a run. Last validation: loss 1.000"


def test_figures_of_a_strange_checkpoint_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume({"baseline": {"toxicity": "x", "kl": 1}}, monkeypatch).baseline == {"kl": 1.0}
    assert resume({"seconds": "x"}, monkeypatch).pace.seconds == 0
    assert resume({}, monkeypatch).baseline == {}

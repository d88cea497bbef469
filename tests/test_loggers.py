"""Nothing assumes TensorBoard: runs with other loggers, several, and none."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import DEMO, IdleCLI, printed, run, tiny_recipe
from detox_lightning.callbacks.dashboard import DashboardCallback
from detox_lightning.cli.command import DetoxCLI
from detox_lightning.runs.find_checkpoint import find_place
from numerics import float32

Points = dict[tuple[str, int], float]


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setenv("PL_GLOBAL_SEED", "0")
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str) -> str:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"), tiny_t5, tiny_classifier)


def command(verb: str, recipe: str, *flags: str) -> DetoxCLI:
    return DetoxCLI([verb, "--config", recipe, *flags])


def metrics_csv(folder: Path) -> Points:
    """What CSVLogger wrote."""
    with (folder / "metrics.csv").open(newline="", encoding="utf8") as lines:
        rows = list(csv.DictReader(lines))
    return {
        (name, int(row["step"])): float(cell)
        for row in rows
        for name, cell in row.items()
        if cell and name != "step"
    }


def steps(points: Points, name: str) -> list[int]:
    return sorted(step for other, step in points if other == name)


# -- CSV


@pytest.fixture(scope="module")
def csv_flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("csv")
    return "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}"


@pytest.fixture(scope="module")
def fitted(recipe: str, csv_flags: tuple[str, str]) -> DetoxCLI:
    """Two rollouts, with a validation before and after."""
    return command("fit", recipe, *csv_flags)


def test_csv_has_the_curves(fitted: DetoxCLI) -> None:
    points = metrics_csv(Path(fitted.trainer.log_dir))
    for name, x_axis in [
        ("objective/scores_mean", [1, 2]),  # rollouts done
        ("ppo/loss/policy", [1, 2]),
        ("time/total", [1, 2]),
        ("val/toxicity", [0, 2]),
        ("val/kl", [0, 2]),
        ("size/policy_trainable", [0]),
    ]:
        assert steps(points, name) == x_axis, name
    assert points["val/kl", 0] == pytest.approx(0, abs=float32(6))  # of 6 tokens
    metrics = fitted.trainer.callback_metrics
    for name in ("objective/scores_mean", "objective/kl", "val/toxicity", "val/score", "val/kl"):
        assert points[name, 2] == pytest.approx(float(metrics[name]), rel=1e-6), name


def test_csv_has_no_tables(fitted: DetoxCLI) -> None:
    folder = Path(fitted.trainer.log_dir)
    assert folder.name == "version_0"
    files = {path.name for path in folder.iterdir()}
    texts = {"metrics.csv", "hparams.yaml", "config.yaml", "summary.txt"}
    assert files == {*texts, "checkpoints", "adapter"}
    names = {name for name, _ in metrics_csv(folder)}
    assert not [name for name in names if name.startswith(("rollout/", "samples"))]


def test_a_run_with_csv_is_found_and_tested(
    recipe: str, csv_flags: tuple[str, str], fitted: DetoxCLI
) -> None:
    tested = command("test", recipe, *csv_flags, "--ckpt_path=last")
    run_folder = Path(fitted.trainer.log_dir)
    assert tested.config["ckpt_path"] == str(run_folder / "checkpoints" / "last.ckpt")
    assert tested.model.rollouts == 2
    assert [x.name for x in run_folder.parent.iterdir()] == ["version_0"]
    points = metrics_csv(run_folder / "logs")
    logged = {name: value for (name, _), value in points.items() if name.startswith("test/")}
    metrics = tested.trainer.callback_metrics
    assert {name for name in metrics if name.startswith("test/")} == set(logged)
    assert logged["test/after/toxicity"] == pytest.approx(
        float(metrics["test/after/toxicity"]), rel=1e-6
    )
    command("validate", recipe, *csv_flags, "--ckpt_path=last")  # which has other columns
    both = metrics_csv(run_folder / "logs")
    assert both.items() >= points.items()
    assert "val/toxicity" in {name for name, _ in both}


# -- several


@pytest.mark.slow
def test_two_loggers_are_told_the_same(recipe: str, tmp_path: Path) -> None:
    board, table = tmp_path / "board", tmp_path / "table"
    loggers = [
        {"class_path": name, "init_args": {"save_dir": str(folder), "name": "many"}}
        for name, folder in [("TensorBoardLogger", board), ("CSVLogger", table)]
    ]
    command("fit", recipe, f"--trainer.logger={json.dumps(loggers)}")
    events = EventAccumulator(str(board / "many" / "version_0")).Reload()
    curves = {
        (name, event.step): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    assert curves == pytest.approx(metrics_csv(table / "many" / "version_0"), rel=1e-5)
    assert steps(curves, "val/toxicity") == [0, 2]
    # TensorBoard shows groups by name, and unfolds the first two
    assert sorted({name.partition("/")[0] for name, _ in curves})[:2] == ["objective", "ppo"]
    # what only one of them takes
    assert [event.step for event in events.Histograms("rollout/kl")] == [1]
    assert [event.step for event in events.Tensors("samples/text_summary")] == [1]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


# -- none


def test_without_a_logger(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--trainer.logger=false", "--data.num_eval_samples=4")
    fitted = command("fit", recipe, *flags)
    assert (fitted.model.rollouts, fitted.trainer.loggers) == (2, [])
    last = tmp_path / "checkpoints" / "last.ckpt"
    tested = command("test", recipe, *flags, "--ckpt_path=last")
    assert tested.config["ckpt_path"] == str(last)
    assert tested.model.rollouts == 2
    weights = dict(fitted.model.named_parameters())
    assert all(torch.equal(x, weights[name]) for name, x in tested.model.named_parameters())
    # each run's configuration is kept
    longer = (
        "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=1",
        "--data.validation_split=null",
    )
    assert command("fit", recipe, *flags, *longer).model.rollouts == 2
    configurations = [yaml.safe_load(path.read_text()) for path in Path().glob("config*")]
    assert {config["trainer"]["max_epochs"] for config in configurations} == {1, 2}


# -- one of the user's own


class Minimal(Logger):
    """What Lightning asks of a logger, and nothing more."""

    name = "mine"
    version = 3

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.params: dict[str, Any] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        assert not self.params
        self.params = params


def test_a_logger_of_ones_own(recipe: str, tmp_path: Path) -> None:
    flags = ("--trainer.logger=test_loggers.Minimal", f"--trainer.default_root_dir={tmp_path}")
    fitted = command("fit", recipe, *flags)
    logger = fitted.trainer.logger
    points = {(name, step): x for step, metrics in logger.metrics for name, x in metrics.items()}
    assert steps(points, "val/toxicity") == [0, 2]
    assert steps(points, "objective/kl") == [1, 2]
    toxicity = float(fitted.trainer.callback_metrics["val/toxicity"])
    assert points["val/toxicity", 2] == pytest.approx(toxicity)
    assert logger.params["ppo_epochs"] == 2
    folder = tmp_path / "mine" / "version_3"
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 42

    outcome = run("test", "--config", recipe, *flags, "--ckpt_path=last")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: --ckpt_path last finds runs of TensorBoardLogger, of CSVLogger and without a "
        "logger, not of Minimal: give the file"
    ]
    last = f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    tested = command("test", recipe, *flags, last)
    assert tested.model.rollouts == 2
    assert "test/after/toxicity" in {name for _, x in tested.trainer.logger.metrics for name in x}


class Configured(Minimal):
    """Has an argument named ``config``, as W&B's logger has, and may lack a library."""

    def __init__(self, config: dict[str, Any] | None = None, library: str | None = None):
        super().__init__()
        if library is not None:
            raise ModuleNotFoundError(f"No module named {library!r}; pip install {library}")
        self.config = config


MINE = "test_loggers.Configured"


def test_a_logger_may_have_an_argument_named_config(tmp_path: Path) -> None:
    flags = (f"--trainer.logger={MINE}", "--trainer.logger.config={a: 1}")
    logger = IdleCLI(["fit", "--config", DEMO, *flags]).trainer.logger
    assert (type(logger).__name__, logger.config) == ("Configured", {"a": 1})
    file = tmp_path / "mine.yaml"
    options = {"class_path": MINE, "init_args": {"config": {"b": 2}}}
    file.write_text(yaml.safe_dump({"trainer": {"logger": options}}))
    logger = IdleCLI(["fit", "--config", DEMO, "--config", str(file)]).trainer.logger
    assert logger.config == {"b": 2}


@pytest.mark.parametrize("form", ["{}", "[CSVLogger, {}]"])
def test_a_logger_that_lacks_its_library_says_so(form: str) -> None:
    made = f"{{class_path: {MINE}, init_args: {{library: wonder}}}}"
    outcome = run("fit", "--config", DEMO, f"--trainer.logger={form.format(made)}")
    assert (outcome.code, outcome.errors) == (
        2,
        ["error: Configured can't be made: No module named 'wonder'; pip install wonder"],
    )


# -- what the command line makes of flags


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--trainer.logger=TensorBoardLogger",),
        ('--trainer.logger=[{class_path: TensorBoardLogger, init_args: {name: "a"}}]',),
    ],
)
def test_the_dashboard_has_the_table_of_runs_for_itself(flags: tuple[str, ...]) -> None:
    """Of two rows of a run, TensorBoard shows the first: Lightning's, if it wrote one."""
    logger = printed("fit", "--config", DEMO, *flags)["trainer"]["logger"]
    (logger,) = logger if isinstance(logger, list) else [logger]
    assert logger["init_args"]["default_hp_metric"] is False


def test_the_dashboard_is_always_there() -> None:
    others = "--trainer.callbacks=[{class_path: RichModelSummary}]"
    for flags in ((), (others,)):
        callbacks = IdleCLI(["fit", "--config", DEMO, *flags]).trainer.callbacks
        assert sum(isinstance(callback, DashboardCallback) for callback in callbacks) == 1


CSV = "{class_path: CSVLogger, init_args: {save_dir: a, name: b}}"
BOARD = "{class_path: TensorBoardLogger, init_args: {save_dir: c, name: d}}"


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("flags", "folder", "has_runs"),
    [
        ([], "runs/demo", True),
        (["--trainer.logger=CSVLogger"], "runs/demo", True),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=x"], "x/demo", True),
        (["--trainer.logger.name="], "runs", True),
        ([f"--trainer.logger=[{CSV}, {BOARD}]"], "a/b", True),
        (["--trainer.logger=true"], "lightning_logs", True),
        (["--trainer.logger=true", "--trainer.default_root_dir=r"], "r/lightning_logs", True),
        (["--trainer.logger=false"], "checkpoints", False),
        (["--trainer.logger=[]"], "checkpoints", False),
        (["--trainer.logger=false", "--trainer.default_root_dir=r"], "r/checkpoints", False),
        (["--checkpoint.dirpath=mine"], "mine", False),
    ],
)
def test_where_last_is(
    flags: list[str], folder: str, has_runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as the loggers are when the checkpoint is chosen: without a version
    monkeypatch.setattr(IdleCLI, "after_instantiate_classes", lambda cli: None)
    place = find_place(
        trainer := IdleCLI(["test", "--config", DEMO, *flags]).trainer, trainer.loggers
    )
    assert (place.folder.resolve(), place.has_runs) == (Path(folder).resolve(), has_runs)


@pytest.mark.slow
def test_last_of_runs_in_one_folder_is_the_newest(recipe: str, tmp_path: Path) -> None:
    flags = ("--config", recipe, f"--checkpoint.dirpath={tmp_path}/kept")
    for seed in (1, 2):
        assert run("fit", *flags, f"--seed_everything={seed}").code == 0
    cli = IdleCLI(["test", *flags, "--ckpt_path=last"])
    assert cli.config["ckpt_path"] == f"{tmp_path}/kept/last-v1.ckpt"

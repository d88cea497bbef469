"""What is left of a run, and how short the commands are that come back to it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import yaml

from command import Outcome, run, tiny_recipe
from detox_lightning.cli.run_config import with_run_config
from detox_lightning.modules import PPOModule

FEW = ("--data.num_eval_samples=2", "--model.evaluation.samples=1")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "tfevents" not in path.name}


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str
) -> Iterator[Path]:
    """A folder with a recipe and one run."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setenv("PL_GLOBAL_SEED", "0")
        tiny_recipe(folder, tiny_t5, tiny_classifier)
        outcome = run("fit", "--config", "tiny.yaml", *FEW)
        assert outcome.code == 0, outcome.err
        yield folder


def fine(*words: str) -> Outcome:
    outcome = run(*words)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture
def runs(home: Path) -> Path:
    """The folder of runs, which no command but ``fit`` adds a run to."""
    folder = home / "runs" / "tiny"
    assert names(folder) == {"version_0"}
    return folder


# -- commands that don't train write beside the checkpoint


SLOW = pytest.mark.slow


@pytest.mark.quick(1)
@pytest.mark.parametrize("verb", [pytest.param("validate", marks=SLOW), "test", "predict"])
def test_no_other_command_begins_a_run(verb: str, runs: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (runs / "version_0").iterdir()}
    fine(verb, "--config", "tiny.yaml", *FEW, "--ckpt_path=last")
    assert names(runs) == {"version_0"}
    new = {
        path.name
        for path in (runs / "version_0").iterdir()
        if path.name not in before
        or (path.is_file() and path.stat().st_mtime_ns != before[path.name])
    }
    expected = {"validate": {"logs"}, "test": {"logs", "test"}, "predict": {"predictions.jsonl"}}
    assert new - {"logs"} == expected[verb] - {"logs"}
    assert (runs / "version_0" / "logs").is_dir()


@pytest.mark.slow
def test_without_a_checkpoint_they_begin_none_either(runs: Path, tmp_path: Path) -> None:
    logger = f"--trainer.logger.save_dir={tmp_path}"
    for _ in range(2):
        fine("predict", "--config", "tiny.yaml", *FEW, logger)
    assert names(tmp_path / "tiny") == {"evaluation"}
    written = names(tmp_path / "tiny" / "evaluation")
    assert {"predictions.jsonl", "predictions-1.jsonl"} <= written


@SLOW
def test_beside_a_checkpoint_that_is_not_ours(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's run can only be read."""
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda x, *rest: Path(x).name != "version_0" and real(x, *rest)
    )
    before = names(runs / "version_0")
    words = ("test", "--config", "tiny.yaml", *FEW, f"--trainer.logger.save_dir={tmp_path}")
    fine(*words, f"--ckpt_path={runs / 'version_0'}", f"--report.folder={tmp_path / 'mine'}")
    assert names(runs / "version_0") == before
    assert names(tmp_path / "tiny") == {"evaluation"}


# -- a run's folder as checkpoint, and its own configuration

MISSING = "there is no such file or folder; give a checkpoint, the folder of a run, or last"


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "given",
    [
        *("runs/tiny/version_0", "last"),
        pytest.param("runs/tiny/version_0/checkpoints", marks=SLOW),
        pytest.param("FILE", marks=SLOW),
    ],
)
def test_a_run_is_named_by_its_folder_and_knows_its_configuration(given: str, runs: Path) -> None:
    file = Path("runs/tiny/version_0/checkpoints/last.ckpt")
    given = str(file) if given == "FILE" else given
    folder = runs / "version_0" / f"of {given.replace('/', '-')}"
    outcome = fine("test", "--ckpt_path", given, *FEW, f"--report.folder={folder}")
    assert "The configuration is runs/tiny/version_0/config.yaml" in outcome.err
    about = json.loads((folder / "summary.json").read_text())["about"]
    assert Path(about["checkpoint"]).resolve() == file.resolve()
    assert about["prompts"] == 2
    assert names(runs) == {"version_0"}


def test_a_trial_finds_the_last_run(runs: Path) -> None:
    """Lightning has put other loggers in the place of those that name the folder."""
    fine("fit", "--config", "tiny.yaml", "--ckpt_path=last", "--trainer.fast_dev_run=true")
    assert names(runs) == {"version_0"}


@pytest.mark.parametrize("trust", ["true", "false"])
def test_what_is_no_checkpoint_is_known_at_once(trust: str, runs: Path) -> None:
    Path("other.ckpt").write_text("hello")
    outcome = run(
        *("fit", "--config", "tiny.yaml"), "--ckpt_path=other.ckpt", f"--weights_only={trust}"
    )
    assert outcome.code == 2
    assert "this is not a checkpoint, or it is damaged" in outcome.errors[0]
    assert names(runs) == {"version_0"}


def test_export_knows_it_too(runs: Path, tmp_path: Path) -> None:
    fine("export", "--ckpt_path=runs/tiny/version_0", f"--export.folder={tmp_path / 'adapter'}")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("empty", "this folder has no checkpoint; give a run's"),
        ("runs/nope", MISSING),
        ("runs/tiny/version_7", MISSING),
        ("runs/tiny/version_0/checkpoints/nope.ckpt", MISSING),
        ("bare", "there is no bare/config.yaml of its run; give a configuration with --config"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_place_without_a_run(verb: str, place: str, told: str, runs: Path) -> None:
    Path("empty").mkdir(exist_ok=True)
    Path("bare").mkdir(exist_ok=True)
    shutil.copy("runs/tiny/version_0/checkpoints/last.ckpt", "bare")
    expected = (2, [f"error: --ckpt_path {place}: {told}"])
    outcome = run(verb, "--ckpt_path", place)
    assert (outcome.code, outcome.errors) == expected
    if place != "bare":  # it is said alike of a command with a configuration
        outcome = run(verb, "--ckpt_path", place, "--config=tiny.yaml")
        assert (outcome.code, outcome.errors) == expected


@pytest.mark.parametrize(("verb", "kind"), [("fit", "inactive run"), ("predict", "run")])
def test_last_without_any_run(
    verb: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(verb, "--ckpt_path", "last")
    assert (outcome.code, outcome.errors) == (
        2,
        [
            f"error: --ckpt_path last: there is no {kind} with a checkpoint in runs/ yet; train "
            "first, with fit --config FILE"
        ],
    )


@pytest.mark.parametrize("place", ["last", "runs/tiny/version_0"])
def test_a_fit_takes_its_run_s_configuration_and_keeps_its_flags(place: str, runs: Path) -> None:
    flags = ["--ckpt_path", place, "--trainer.max_epochs=5"]
    file = "runs/tiny/version_0/config.yaml"
    assert with_run_config(["fit", *flags]) == ["fit", "--config", file, *flags]
    for given in ("--config=x.yaml", "--model=x", "--data=x"):
        assert with_run_config(["fit", given, *flags]) == ["fit", given, *flags]


# -- attempts that fail, and what resumes after them


def test_a_failed_attempt_leaves_no_run(runs: Path) -> None:
    mistakes = [
        ("--data.source=/nowhere",),
        ("--model.policy=/nowhere",),
        ("--model.reward.label=/nowhere",),
        ("--ckpt_path=runs/tiny/version_0", "--model.lora.r=8"),
    ]
    for words in mistakes:
        outcome = run("fit", "--config", "tiny.yaml", *words)
        assert outcome.code == 2, (words, outcome.err)
        assert names(runs) == {"version_0"}, words
    assert not list(runs.rglob(".lock"))


def test_a_run_that_fails_later_keeps_its_folder(runs: Path, tmp_path: Path) -> None:
    logger = f"--trainer.logger.save_dir={tmp_path}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOModule, "training_step", lambda *_: 1 / 0)
        outcome = run("fit", "--config", "tiny.yaml", *FEW, logger)
    assert outcome.code == 1, outcome.err
    assert names(tmp_path / "tiny") == {"version_0"}


def test_a_resumed_run_has_one_configuration(runs: Path, tmp_path: Path) -> None:
    fit = ("fit", "--config", "tiny.yaml", *FEW, f"--trainer.logger.save_dir={tmp_path}")
    fine(*fit, "--trainer.max_epochs=1")
    folder = tmp_path / "tiny" / "version_0"
    assert run(*fit, "--ckpt_path=last", "--model.lora.r=8").code == 2
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["lora"]["r"] == 4  # of the run, not of the mistake
    (tmp_path / "tiny" / "version_1" / "checkpoints").mkdir(parents=True)
    resumed = fine(*fit, "--ckpt_path=last", "--trainer.max_epochs=2", "--model.kl.coef=0.3")
    assert [path.name for path in folder.glob("config*")] == ["config.yaml"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    (line,) = [line for line in resumed.err.splitlines() if "config.yaml has" in line]
    assert f"{folder / 'config.yaml'} has the options with which the run resumes; new: " in line
    assert "trainer.max_epochs: 1 → 2" in line
    assert "model.kl.coef: 0.2 → 0.3" in line
    fine("validate", f"--ckpt_path={folder}", *FEW)

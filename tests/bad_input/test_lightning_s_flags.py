"""Flags of Lightning's trainer that a small run, or PPO, can't take as they are."""

import json
import warnings
from pathlib import Path

import pytest
import yaml

from bad_input.cases import Case, Place, check
from bad_input.test_bad_stages import STAGES
from command import run
from conftest import NAMES
from detox_lightning.report.curves import read_curves

PEOPLE = list(enumerate(NAMES))
STEPS = "PPO takes its own steps."
NUMBERS = "Responses of an optimizer step are model.mini_batch_size, of a forward pass "
ANOTHER = "Change its options, or give another, such as torch.optim.AdamW"
CASES = {
    "--trainer.gradient_clip_val=1": f"trainer.gradient_clip_val=1: {STEPS} Give "
    "model.max_grad_norm",
    "--trainer.accumulate_grad_batches=2": f"trainer.accumulate_grad_batches=2: {STEPS} {NUMBERS}"
    "model.micro_batch_size: give these",
    "--trainer.enable_checkpointing=false": "trainer.enable_checkpointing=false: a stopped run "
    "resumes from last.ckpt, which is always written; leave it true. How often: "
    "checkpoint.every_n_batches",
    "--trainer.barebones=true": "trainer.barebones=true: it turns off the callbacks and loggers "
    "that write checkpoints, exports and figures. For speed give trainer.logger=false, "
    "trainer.enable_progress_bar=false and trainer.enable_model_summary=false",
    "--model.optimizer=LBFGS": "model.optimizer: LBFGS.step() missing 1 required positional "
    f"argument: 'closure'. {ANOTHER}",
    "--model.optimizer=SparseAdam": "model.optimizer: SparseAdam does not support dense gradients, "
    f"please consider Adam instead. {ANOTHER}",
    "--model.optimizer=transformers.Adafactor": "model.optimizer: Cannot combine manual `lr` and "
    f"`relative_step=True` options. {ANOTHER}",
    "--model.optimizer=torch.optim.Muon": "model.optimizer: Muon only supports 2D parameters "
    f"whereas we found a parameter with size: torch.Size([1]). {ANOTHER}",
    "--threads=30000": "--threads=30000: this machine has 2 cores, and more threads slow each "
    "other down; give at most 8",
    "--data.num_workers=30000": "--data.num_workers=30000: this machine has 2 cores, and more "
    "processes slow each other down; give at most 8",
    "--trainer.callbacks+="
    + json.dumps({"class_path": "ThroughputMonitor", "init_args": {"batch_size_fn": 3}}):
    "--trainer.callbacks.batch_size_fn=3: must be the path of a function, such as my_reward.brief "
    "(its file without .py, a dot, and its name)",
}  # fmt: skip


def prepared(stage: str, place: Place) -> str:
    """A recipe of the stage, with data that it can learn from."""
    recipe = STAGES[stage](place).recipe
    if stage == "classifier":
        for part in ("train", "validation"):
            rows = [{"text": name, "label": ("nothate", "hate")[n % 2]} for n, name in PEOPLE]
            (place.folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        config = yaml.safe_load(Path(recipe).read_text())
        config["data"]["init_args"] |= {"batch_size": 2, "test_split": None, "max_tokens": 64}
        Path(recipe).write_text(yaml.safe_dump(config))
    return recipe


@pytest.mark.quick(4)
@pytest.mark.parametrize("flag", CASES)
def test_flags_that_lead_nowhere(flag: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    check(Case(flag, (flag,), CASES[flag]), place)


@pytest.mark.parametrize("called", ["os.system", "subprocess.Popen", "subprocess.run"])
def test_what_is_no_optimizer_is_not_called(called: str, place: Place) -> None:
    given = {"args": ["touch", "owned"]} if "subprocess" in called else {"command": "touch owned"}
    model = {"init_args": {"optimizer": {"class_path": called, "init_args": given}}}
    Path("mine.yaml").write_text(yaml.safe_dump({"model": model}))
    outcome = run("fit", "--config", place.recipe, "--config=mine.yaml")
    assert outcome.code == 2
    assert outcome.errors[0].startswith("error: --model.optimizer"), outcome.errors
    assert not Path("owned").exists()


@pytest.mark.quick(1)
@pytest.mark.parametrize("stage", STAGES)
def test_an_interval_longer_than_an_epoch_is_lowered(stage: str, place: Place) -> None:
    flags = ("--trainer.val_check_interval=50", "--trainer.limit_val_batches=1")
    said = "trainer.val_check_interval=50 is more than an epoch's batches .2.: validation comes "
    with pytest.warns(UserWarning, match=said):
        outcome = run("fit", "--config", prepared(stage, place), *flags)
    assert outcome.code == 0, outcome.err
    points = read_curves(next(place.folder.glob("runs/*/version_0")))
    validated = {x for name, curve in points.items() if name.startswith("val/") for x, _ in curve}
    assert validated == ({0, 2} if stage == "ppo" else {1})


def test_where_nothing_is_validated_nothing_is_said(place: Place) -> None:
    flags = ("--trainer.val_check_interval=50", "--data.validation_split=null")
    with warnings.catch_warnings(record=True) as caught:
        outcome = run("fit", "--config", place.recipe, *flags)
    assert outcome.code == 0, outcome.err
    assert "val_check_interval" not in outcome.err + " ".join(str(one.message) for one in caught)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "flags",
    [
        ("--trainer.check_val_every_n_epoch=5",),
        ("--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=50"),
    ],
)
def test_a_validation_that_never_comes_is_told(flags: tuple[str, ...], place: Place) -> None:
    said = r"ends before its first validation .trainer.max_epochs=1, batches of an epoch: 2."
    with pytest.warns(UserWarning, match=said):
        outcome = run("fit", "--config", place.recipe, "--trainer.limit_val_batches=1", *flags)
    assert outcome.code == 0, outcome.err


@pytest.mark.quick(1)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("batches", ["true", pytest.param("2", marks=pytest.mark.slow)])
def test_a_trial_run_works_with_a_schedule(stage: str, batches: str, place: Place) -> None:
    recipe = prepared(stage, place)
    words = (f"--trainer.fast_dev_run={batches}", "--model.schedule.name=cosine")
    outcome = run("fit", "--config", recipe, *words, "--checkpoint.every_n_batches=1")
    assert outcome.code == 0, outcome.err
    for kind in ("*.ckpt", "*.safetensors", "events*"):
        assert not list((place.folder / "runs").rglob(kind))
    assert "The trained model is in" not in outcome.err


def test_a_trial_counts_rollouts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from detox_lightning.ppo.module import PPOModule

    done = []
    real = PPOModule.training_step
    monkeypatch.setattr(PPOModule, "training_step", lambda *given: done.append(real(*given)))
    assert run("fit", "--config", place.recipe, "--trainer.fast_dev_run=3").code == 0
    assert len(done) == 3


def test_home_is_meant_by_a_tilde(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    home = place.folder / "home"
    monkeypatch.setenv("HOME", str(home))
    Path("mine.yaml").write_text("export: {folder: ~/exported}\ncheckpoint: {dirpath: ~/kept}\n")
    logs = "--trainer.logger.save_dir=~/logs"
    words = ("--config", place.recipe, "--config=mine.yaml", logs)
    outcome = run("fit", *words, "--trainer.limit_train_batches=1")
    assert outcome.code == 0, outcome.err
    assert {folder.name for folder in home.iterdir()} == {"exported", "kept", "logs"}
    named = ("--predictions.file=~/said.jsonl", "--ckpt_path=~/kept/last.ckpt")
    outcome = run("predict", *words, *named)
    assert outcome.code == 0, outcome.err
    outcome = run("test", *words, "--report.folder=~/report", "--model.policy=~/exported")
    assert outcome.code == 0, outcome.err
    assert (home / "said.jsonl").is_file()
    assert (home / "report" / "report.html").is_file()
    assert not Path("~").exists()


@pytest.mark.parametrize("verb", ["test", "predict", "validate"])
def test_a_log_that_can_t_be_written(verb: str, place: Place) -> None:
    file = place.folder / "tiny.yaml"
    message = (
        f"trainer.logger.save_dir={file}: nothing can be written into {file} (Not a directory); "
        "give another folder"
    )
    check(Case("", (f"--trainer.logger.save_dir={file}",), message, verb=verb), place)


@pytest.mark.quick(2)
@pytest.mark.parametrize("batches", ["true", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", ["fit", "test", "predict", "validate"])
def test_a_trial_leaves_nothing_behind(verb: str, batches: str, place: Place) -> None:
    before = {file for file in place.folder.rglob("*") if file.suffix != ".arrow"}
    outcome = run(verb, "--config", place.recipe, f"--trainer.fast_dev_run={batches}")
    assert outcome.code == 0, outcome.err
    after = {file for file in place.folder.rglob("*") if "cache" not in file.parts}
    assert after <= before
    told = {"test": "no report is written", "predict": "no predictions are written"}
    if verb in told:
        assert f"trainer.fast_dev_run: {told[verb]}" in outcome.out


NOTHING = {
    "--trainer.limit_train_batches=0": ("fit", "trained", "limit_train_batches=0"),
    "--trainer.limit_train_batches=0.0": ("fit", "trained", "limit_train_batches=0.0"),
    "--trainer.max_epochs=0": ("fit", "trained", "max_epochs=0"),
    "--trainer.max_steps=0": ("fit", "trained", "max_steps=0"),
    "--trainer.max_time=00:00:00:00": ("fit", "trained", "max_time=0.0"),
    "--trainer.limit_train_batches=0.1": ("fit", "trained", "limit_train_batches=0.1"),
    "--trainer.limit_test_batches=0": ("test", "measured", "limit_test_batches=0"),
    "--trainer.limit_val_batches=0": ("validate", "measured", "limit_val_batches=0"),
    "--trainer.limit_predict_batches=0": ("predict", "predicted", "limit_predict_batches=0"),
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("flag", NOTHING)
def test_nothing_to_do_is_no_run(flag: str, place: Place) -> None:
    verb, done, said = NOTHING[flag]
    message = f"trainer.{said}: nothing would be {done}; give more, or leave it out"
    check(Case("", (flag,), message, verb=verb), place)
    assert not list(place.folder.glob("runs/**/adapter"))


def test_a_run_at_its_end_is_none_that_has_nothing_to_do(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("fit", "--config", place.recipe, "--trainer.limit_train_batches=1")
    assert run(*words).code == 0
    caplog.set_level("INFO")
    outcome = run(*words, "--ckpt_path=last", "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    assert "Nothing was left to do" in caplog.text


def test_validation_by_the_clock(place: Place) -> None:
    """Each rollout takes longer than no time at all; EarlyStopping asks for the interval, too."""
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/toxicity"}}
    flags = ("--trainer.val_check_interval=00:00:00:01", "--trainer.limit_val_batches=1")
    outcome = run(
        "fit", "--config", place.recipe, *flags, f"--trainer.callbacks+={json.dumps(stopping)}"
    )
    assert outcome.code == 0, outcome.err

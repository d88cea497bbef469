"""Each callback that Lightning brings: it works here, or it is refused and says what does."""

import json

import pytest
from lightning.pytorch import callbacks

from bad_input.cases import Case, Place, check
from bad_input.test_bad_stages import STAGES
from command import run
from detox_lightning.stages.run_checks import REFUSED, REFUSED_IN_PPO

AVERAGING = "Give detox_lightning.callbacks.averaging.AveragingCallback"
# what is refused: its options, and how its line begins and ends
NO: dict[str, tuple[dict[str, object], str, str]] = {
    "BatchSizeFinder": ({}, "it would try sizes", "docs/memory.md says what fits"),
    "LearningRateFinder": ({}, "it would train beside", "trainer.limit_train_batches each"),
    "StochasticWeightAveraging": ({"swa_lrs": 0.1}, "it would take model.schedule's", AVERAGING),
    "EMAWeightAveraging": ({}, "it would copy and average the frozen", AVERAGING),
    "WeightAveraging": ({}, "it would copy and average the frozen", AVERAGING),
    "GradientAccumulationScheduler": (
        {"scheduling": {"0": 2}},
        "model.schedule must know",
        "in PPO model.mini_batch_size and model.micro_batch_size",
    ),
    "ModelPruning": ({"pruning_fn": "l1_unstructured"}, "it gives the", "model that is exported"),
    "BackboneFinetuning": (
        {},
        "it freezes a part",
        "model.lora says what learns (null: everything)",
    ),
    "OnExceptionCheckpoint": (
        {"dirpath": "x"},
        "it saves in the middle",
        "checkpoint.every_n_batches",
    ),
    "Timer": (
        {"duration": "00:01:00:00"},
        "its options can't be written into config.yaml",
        "Give trainer.max_time, such as 00:12:00:00",
    ),
}
YES: dict[str, dict[str, object]] = {
    "DeviceStatsMonitor": {},
    "EarlyStopping": {"monitor": "val/toxicity"},
    "LambdaCallback": {},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"dirpath": "more"},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "ThroughputMonitor": {"batch_size_fn": "builtins.len"},
}
ABSTRACT = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}
OTHERWISE = {
    "SpikeDetection",  # below
    "ModelSummary",  # as RichModelSummary and RichProgressBar, of which one is allowed
    "TQDMProgressBar",
}


def flag(name: str, options: dict[str, object]) -> str:
    path = f"lightning.pytorch.callbacks.{name}"
    return f"--trainer.callbacks+={json.dumps({'class_path': path, 'init_args': options})}"


def test_the_table_is_complete() -> None:
    assert set(callbacks.__all__) == {*NO, *YES, *ABSTRACT, *OTHERWISE}
    assert all(reason.strip() for reason in {**REFUSED, **REFUSED_IN_PPO}.values())


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", NO)
def test_what_can_t_do_what_it_says_is_refused(name: str, place: Place) -> None:
    options, begins, ends = NO[name]
    outcome = run("fit", "--config", place.recipe, flag(name, options))
    [error] = outcome.errors
    assert error.startswith(f"error: trainer.callbacks: {name}: {begins}"), error
    assert error.endswith(ends), error
    assert outcome.code == 2
    assert not list(place.folder.rglob("*.ckpt"))


@pytest.mark.quick(1)
@pytest.mark.parametrize("stage", ["ppo", "supervised"])
def test_others_work_all_at_once(stage: str, place: Place) -> None:
    options = YES if stage == "ppo" else {**YES, "EarlyStopping": {"monitor": "val/loss"}}
    words = [flag(name, given) for name, given in options.items()]
    recipe = STAGES[stage](place).recipe
    bar = "--trainer.enable_progress_bar=true"
    outcome = run("fit", "--config", recipe, bar, "--trainer.limit_val_batches=1", *words)
    assert outcome.code == 0, outcome.err
    assert list((place.folder / "more").glob("*.ckpt"))


def test_spikes_of_a_loss_that_there_is_none_of(place: Place) -> None:
    outcome = run("fit", "--config", place.recipe, flag("SpikeDetection", {}))
    assert outcome.code == 2
    assert outcome.errors[0].startswith(
        "error: trainer.callbacks: SpikeDetection: a rollout has no loss of its own."
    )


MONITORS = {
    "val/toxicit": "did you mean val/toxicity?",
    "val_kl": "did you mean val/kl?",
    "val/loss": "give one of val/score, val/toxicity, val/toxicity_probability, val/kl, val/length,"
    " val/eos_rate, val/rouge1, val/rouge2, val/rougeL, val/rougeLsum, val/distinct1, "
    "val/distinct2, val/distinct3",
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", MONITORS)
@pytest.mark.parametrize("kind", ["EarlyStopping", "BoundedCheckpoint"])
def test_a_figure_that_nothing_logs(kind: str, name: str, place: Place) -> None:
    words = (f"--checkpoint.monitor={name}",)
    if kind == "EarlyStopping":
        words = (flag(kind, {"monitor": name}),)
    message = f"monitor={name} ({kind}): validation logs no such figure; {MONITORS[name]}"
    check(Case("", words, message), place)


def test_a_figure_of_a_validation_that_there_is_none_of(place: Place) -> None:
    words = ("--checkpoint.monitor=val/kl", "--data.validation_split=null")
    message = (
        "monitor=val/kl (BoundedCheckpoint): no validation would log it; give "
        "data.validation_split, or another figure"
    )
    check(Case("", words, message), place)


def test_a_toxicity_that_nothing_measures(place: Place) -> None:
    reward = ("--model.reward=LengthReward", "--model.reward.low=1", "--model.reward.high=9")
    message = (
        "monitor=val/toxicity (BoundedCheckpoint): validation logs no such figure; give one of "
        "val/score, val/kl, val/length, val/eos_rate, val/rouge1, val/rouge2, val/rougeL, "
        "val/rougeLsum, val/distinct1, val/distinct2, val/distinct3"
    )
    check(Case("", (*reward, "--checkpoint.monitor=val/toxicity"), message), place)

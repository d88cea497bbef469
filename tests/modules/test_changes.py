"""Flags that differ from the checkpoint's run are told, in one line."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from command import IdleCLI, run, tiny_recipe
from detox_lightning.ppo import policy_stage
from detox_lightning.stages.flag_changes import differences, measures_alike

LENGTH = {"class_path": "my.Length", "init_args": {"words": 3}}
WORDS = {"class_path": "my.Words", "init_args": {"words": 4}}
CHANGES: dict[str, tuple[Any, Any, list[tuple[str, str, str]]]] = {
    "a number": ({"kl": {"coef": 0.2}}, {"kl": {"coef": 1e-5}}, [("m.kl.coef", "0.2", "1e-05")]),
    "a class": (
        {"reward": LENGTH},
        {"reward": WORDS},
        [("m.reward", "Length", "Words")],
    ),
    "within a class": (
        {"reward": LENGTH},
        {"reward": {**LENGTH, "init_args": {"words": 4}}},
        [("m.reward.words", "3", "4")],
    ),
    "nothing and something": (
        {"advantage": None, "clip": 1.0},
        {"advantage": LENGTH, "clip": None},
        [("m.advantage", "null", "Length"), ("m.clip", "1", "null")],
    ),
    "a truth": ({"greedy": True}, {"greedy": False}, [("m.greedy", "true", "false")]),
    "a list": ({"limits": [5, 9]}, {"limits": (5, 8)}, [("m.limits", "[5, 9]", "[5, 8]")]),
    "the same list": ({"limits": [5, 9]}, {"limits": (5, 9)}, []),
    "a text": (
        {"template": "Say:\n{x}\n"},
        {"template": "Tell:\n{x}\n"},
        [("m.template", "Say: {x}", "Tell: {x}")],
    ),
    "a secret": ({"token": "a"}, {"token": "b"}, []),
    "an address": (
        {"it": "https://me:a@h/x"},
        {"it": "https://me:b@h/y"},
        [("m.it", "https://***@h/x", "https://***@h/y")],
    ),
    "what is new": ({}, {"it": 3}, []),
    "an object": ({"it": "<A object at 0x7f00>"}, {"it": "<A object at 0x7f11>"}, []),
    "what the command line adds": ({"_instantiator": "a"}, {"_instantiator": "b"}, []),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_differs(kind: str) -> None:
    old, new, told = CHANGES[kind]
    assert list(differences("m", old, new)) == told


def test_a_place_that_moved_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old/model", "new/model"):
        (tmp_path / name).mkdir(parents=True)
    old, new = (str(tmp_path / name / "model") for name in ("old", "new"))
    monkeypatch.chdir(tmp_path)
    assert list(differences("m", {"a": old}, {"a": "old/model"})) == []
    assert [flag for flag, *_ in differences("m", {"a": old}, {"a": new})] == ["m.a"]
    shutil.rmtree(tmp_path / "old")
    assert list(differences("m", {"a": old}, {"a": new})) == []


@pytest.fixture(scope="module")
def trained(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A recipe, and the checkpoint of its run."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny_recipe(folder, tiny_t5, tiny_classifier)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outcome = run("fit", "--config", recipe, "--trainer.limit_val_batches=1")
    assert outcome.code == 0, outcome.err
    return recipe, str(next((folder / "runs").rglob("last.ckpt")))


BEGINS = "flags differ from those of the checkpoint's run, and "
FLAGS = {
    "--model.kl.coef=0.5": "model.kl.coef: 0.2 → 0.5",
    "--model.optimizer.lr=0.01": "model.optimizer.lr: 0.001 → 0.01",
    "--model.reward.label=hate": "model.reward.label: nothate → hate",
    "--model.scores.scale=true": "model.scores.scale: false → true",
    "--model.sampling.top_k=5": "model.sampling.top_k: 0 → 5",
    "--data.template={dialogue} :": "data.template: Summarize the following conversation. "
    "{dialogue} Summary: → {dialogue} :",
    "--data.num_samples=16": "data.num_samples: null → 16",
    "--data.min_chars=1": "data.min_chars: null → 1",
    "--model.lora.dropout=0.5": "model.lora.dropout: 0.05 → 0.5",
}


def told(verb: str, trained: tuple[str, str], folder: Path, *flags: str) -> str:
    """The line that a command says of what differs."""
    recipe, checkpoint = trained
    words = (f"--trainer.logger.save_dir={folder}", f"--ckpt_path={checkpoint}", *flags)
    with pytest.warns(UserWarning, match=BEGINS) as caught:
        outcome = run(verb, "--config", recipe, *words)
    assert outcome.code == 0, outcome.err
    [said] = [str(one.message) for one in caught if str(one.message).startswith(BEGINS)]
    return said


def test_all_is_told_when_a_run_goes_on(trained: tuple[str, str], tmp_path: Path) -> None:
    said = told("fit", trained, tmp_path, *FLAGS)
    assert set(said.removeprefix(f"{BEGINS}they win: ").split(", ")) == set(FLAGS.values())


def test_what_is_measured_is_told_in_tests(trained: tuple[str, str], tmp_path: Path) -> None:
    flags = ("--model.sampling.top_k=5", "--model.kl.coef=0.5", "--data.num_samples=16")
    said = told("test", trained, tmp_path, *flags, "--trainer.limit_test_batches=1")
    assert said == (f"{BEGINS}what is measured depends on them: model.sampling.top_k: 0 → 5")


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("flag", "alike"),
    [
        ("--model.kl.coef=0.5", True),
        ("--data.num_samples=16", True),
        ("--data.num_eval_samples=2", False),
        ("--data.min_chars=1", False),
        ("--model.reward.label=hate", False),
        ("--model.sampling.top_k=5", False),
        ("--model.evaluation.toxic_label=nothate", False),
        ("--data.source={}/.", True),
        ("--data.source={}/train.jsonl", False),
    ],
)
def test_figures_compare_if_they_are_measured_alike(
    flag: str, alike: bool, trained: tuple[str, str]
) -> None:
    recipe, checkpoint = trained
    cli = IdleCLI(["fit", "--config", recipe, flag.format(Path(recipe).parent)])
    cli.model.trainer, vars(cli.trainer)["datamodule"] = cli.trainer, cli.datamodule
    assert measures_alike(cli.model, torch.load(checkpoint, weights_only=True)) is alike


TRAINED_ON = (
    "--data.test_fraction=0.5 (the checkpoint's: null): the checkpoint's run may have trained on "
    "the rows that this would measure. Give the checkpoint's values; or train with these, too; or "
    "name rows of their own (--data.test_split, --data.source)"
)


def test_rows_that_were_trained_on_are_refused_before_a_model_opens(
    trained: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, checkpoint = trained
    source = Path(recipe).parent / "train.jsonl"
    words = ("--config", recipe, f"--ckpt_path={checkpoint}", "--data.test_fraction=0.5")
    other = shutil.copy(source, tmp_path / "other.jsonl")
    tested = run("test", *words, f"--data.source={other}", "--trainer.limit_test_batches=1")
    assert tested.code == 0, tested.err
    opened = run("test", *words, "--weights_only=false")  # Lightning opens such a file, and later
    assert (opened.code, opened.errors) == (2, [f"error: {TRAINED_ON}"]), opened.err
    monkeypatch.setattr(policy_stage, "load_policy", None)
    for flags in ((), ("--data.validation_split=gone",)):
        refused = run("validate" if flags else "test", *words, *flags)
        assert (refused.code, refused.errors) == (2, [f"error: {TRAINED_ON}"]), refused.err


def test_the_same_flags_are_not_told(
    trained: tuple[str, str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    recipe, checkpoint = trained
    words = (f"--trainer.logger.save_dir={tmp_path}", f"--ckpt_path={checkpoint}")
    outcome = run("fit", "--config", recipe, *words, "--trainer.max_epochs=2")
    assert outcome.code == 0, outcome.err
    assert not [one for one in recwarn if str(one.message).startswith(BEGINS)]


def test_more_rows_are_told(trained: tuple[str, str], tmp_path: Path) -> None:
    recipe, checkpoint = trained
    words = (f"--trainer.logger.save_dir={tmp_path}", f"--ckpt_path={checkpoint}")
    with pytest.warns(UserWarning, match="run had 24 training rows, this one has 16"):
        run("fit", "--config", recipe, *words, "--data.num_samples=16")

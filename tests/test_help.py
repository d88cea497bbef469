"""What the command line answers to people who don't know its flags yet."""

import re
from pathlib import Path

import pytest
from lightning.pytorch.loggers import Logger

import detox_lightning
from command import DEMO, printed, run
from detox_lightning.cli.brief_help import SHOWN, class_options
from detox_lightning.cli.parser import Parser
from detox_lightning.cli.recipes import recipes
from detox_lightning.data.base_module import RowsDataModule

USAGE = "usage: python -m detox_lightning"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, in an ordinary terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.mark.parametrize("verb", SHOWN)
def test_a_command_s_help_is_short_and_names_what_matters(verb: str) -> None:
    outcome = run(verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == f"{USAGE} {verb} --config FILE [--flag VALUE ...]"
    assert len(lines) < 150
    assert max(map(len, lines)) <= 80
    rows = re.findall(r"^  --([\w.]+)(?:=(\S+))?", outcome.out, re.MULTILINE)
    shown = [name for name, _ in rows]
    assert shown[:3] == ["config", "model", "data"]
    assert {*SHOWN[verb].split(), "help_all", "print_config"} <= set(shown)
    for word in ("configs/demo.yaml", "--model.help=CLASS", "SupervisedModule", "ClassifierReward"):
        assert word in outcome.out
    for word in ("``", "CONFIG |", "registry", "standardizes", "Path to a"):
        assert word not in outcome.out


def test_the_defaults_in_it_are_those_of_a_run() -> None:
    words = ("--model=PPOModule", "--model.policy=p", "--model.reward=ClassifierReward")
    words += ("--model.reward.model=c", "--data=DialogueDataModule", "--data.source=s")
    config = printed("fit", *words)
    rows = re.findall(r"^  --([\w.]+)=(\S+)", run("fit", "--help").out, re.MULTILINE)
    shown = {name: default for name, default in rows if ".help" not in name and name != "model"}
    assert {"model.optimizer.lr", "model.kl.coef", "data.batch_size"} <= shown.keys()
    for name, default in shown.items():
        value = config
        for part in name.split("."):
            value = value.get("init_args", value)[part]
        assert str(value) == default, name


def test_the_options_of_the_classes_are_there_by_full_name() -> None:
    known = class_options(Parser)
    for name in ("model.policy", "model.lora.r", "model.optimizer.lr", "data.batch_size"):
        assert name in known
    assert known["data.batch_size"].default == 16


def test_all_of_it_on_request() -> None:
    outcome = run("fit", "--help_all")
    assert outcome.code == 0
    shown = " ".join(outcome.out.split())
    assert shown.startswith(f"{USAGE} fit --config FILE")
    for text in (
        "--trainer.accumulate_grad_batches",
        "--checkpoint.max_kl",
        "a file, the folder of a run, or last,",
    ):
        assert text in shown
    assert "registry:model-name" not in shown
    assert "A DataModule standardizes" not in shown


@pytest.mark.parametrize(
    ("words", "begins", "has"),
    [
        (
            ("--model.help",),
            "Help for --model.help=detox_lightning.PPOModule",
            "ppo_epochs",
        ),
        (("--config", DEMO, "--model.help"), "Help for --model.help=", "--model.kl.coef"),
        (("--model.help", "RewardModule"), "Help for --model.help=", "--model.labels"),
        (("--data.help",), "Help for --data.help=", "--data.batch_size"),
        (
            ("--model=PPOModule", "--model.reward.help=ClassifierReward"),
            "Help for --reward.help=detox_lightning.ClassifierReward",
            "--reward.label",
        ),
    ],
)
def test_help_of_a_class(words: tuple[str, ...], begins: str, has: str) -> None:
    outcome = run("fit", *words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(begins)
    assert has in outcome.out


def test_the_program_s_help_lists_commands_and_recipes() -> None:
    outcome = run("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for name in (*SHOWN, *recipes(), "--version"):
        assert f"\n  {name} " in outcome.out
    assert "The demo: a tiny summarizer learns not to" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_the_version() -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"detox_lightning {detox_lightning.__version__}\n")


MEANT = {
    "--lr=1e-4": "--model.optimizer.lr",
    "--model.lr=1e-4": "--model.optimizer.lr",
    "--optimizer.lr=1e-4": "--model.optimizer.lr",
    "--learning_rate=1e-4": "--model.optimizer.lr",
    "--batch_size=4": "--data.batch_size",
    "--label=hate": "--model.reward.label",
    "--model.label=hate": "--model.reward.label",
    "--data.lr=1": "--model.optimizer.lr",
    "--policy=gpt2": "--model.policy",
    "--r=3": "--model.lora.r",
    "--seed=3": "--seed_everything",
    "--epochs=3": "--trainer.max_epochs",
    "--save_dir=x": "--trainer.logger.save_dir",
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("flag", MEANT)
def test_an_option_is_found_by_its_last_part(flag: str) -> None:
    outcome = run("fit", "--config", DEMO, *flag.split("="))
    name = flag.partition("=")[0]
    said = f"error: {name}: there is no such option; did you mean {MEANT[flag]}?"
    assert (outcome.code, outcome.errors) == (2, [said])


class Unfinished(Logger):
    """Lacks all that a logger must do."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("fit",),
            "--data, --model: required, and not given; give --config configs/demo.yaml, "
            "or a run: --ckpt_path last",
        ),
        (
            ("fit", "configs/demo.yaml"),
            "configs/demo.yaml: this is not an option; give a configuration as --config "
            "configs/demo.yaml",
        ),
        (
            ("fit", "--config", DEMO, "--trainer.logger=test_help.Unfinished"),
            "--trainer.logger=test_help.Unfinished: it is abstract, since it lacks methods that "
            "its base asks for; write them",
        ),
        (
            ("fit", "--data.source=x"),
            "--data.source: there is no such option; name its class before it: "
            "--data=DialogueDataModule",
        ),
        (
            ("fit", "--config=configs/demo/supervised.yaml", "--model.kl.coef=1"),
            "--model.kl.coef: there is no such option; name its class before it: --model=PPOModule",
        ),
        (
            ("--config", "configs/demo.yaml", "fit"),
            "--config: the command comes first: python -m detox_lightning fit --config …",
        ),
        (
            ("configs/demo.yaml", "test"),
            "configs/demo.yaml: the command comes first: python -m detox_lightning test --config "
            "configs/demo.yaml …",
        ),
        (
            ("configs/demo.yaml",),
            "configs/demo.yaml: the command comes first: python -m detox_lightning fit --config "
            "configs/demo.yaml …",
        ),
    ],
)
def test_words_in_another_order(words: tuple[str, ...], said: str) -> None:
    outcome = run(*words)
    assert (outcome.code, outcome.errors) == (2, [f"error: {said}"])


@pytest.mark.quick(3)
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("flag", ["model.reward.label", "model.evaluation.toxic_label"])
def test_a_wrong_label_is_known_before_data_are_read(
    verb: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr(RowsDataModule, "prepare_data", refuse)
    outcome = run(verb, "--config", DEMO, f"--{flag}=hat")
    said = f"error: {flag} 'hat': the classifier 'demo:classifier' has the labels nothate, hate"
    assert (outcome.code, outcome.errors) == (2, [said])

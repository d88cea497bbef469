"""What flags mean, and what is said when they make no sense."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional, Union

import datasets
import pytest
import torch

import detox_lightning
from command import DEMO, ROOT, IdleCLI, printed, run, tiny_recipe
from detox_lightning.cli.command import DetoxCLI
from detox_lightning.cli.parser import Parser, summarize
from detox_lightning.errors import InputError, TrainingError, find_cause
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.models import loading
from detox_lightning.models.model_files import warn_once
from detox_lightning.rewards import ClassifierReward, Reward

VERBS = ["fit", "validate", "test", "predict"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a cache of its own; the seed that a run sets ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: str, name: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"opened the {what} {name}")

    monkeypatch.setattr(loading, "open_by_name", refuse)


@pytest.fixture
def recipe(tmp_path: Path, tiny_t5: str, tiny_classifier: str) -> str:
    return tiny_recipe(tmp_path, tiny_t5, tiny_classifier)


# -- help and configuration


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("no_weights")
def test_help_of_each_verb_shows_docstrings(verb: str) -> None:
    outcome = run(verb, "--help_all")
    assert (outcome.code, outcome.err) == (0, "")
    shown = " ".join(outcome.out.split())  # wrapped to the terminal
    assert shown.startswith(f"usage: python -m detox_lightning {verb}")
    for line in (
        "Logs some of a rollout's responses as a table",  # a callback's class
        "Rollouts between tables; 0 for none.",  # and one of its options
        "(type: NonNegativeInt, default: 10)",
    ):
        assert line in shown


def test_help_of_a_class_shows_its_options() -> None:
    outcome = run("fit", "--model.help=PPOModule")
    assert outcome.code == 0
    assert "Passes over each rollout." in outcome.out
    assert "EOS is impossible before this many tokens." in outcome.out


@pytest.mark.usefixtures("no_weights")
def test_print_config_opens_no_weights() -> None:
    config = printed("fit", "--config", DEMO)
    assert config["model"]["class_path"] == "detox_lightning.PPOModule"
    assert config["model"]["init_args"]["policy"] == "demo:policy"
    assert config["checkpoint"]["save_last"] is True
    assert config["trainer"]["num_sanity_val_steps"] == 0


def test_the_module_answers_before_it_imports_anything_heavy() -> None:
    source = Path(detox_lightning.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"}
    words = ["-m", "detox_lightning", "fit", "--config", DEMO, "--model.ppo_epoch=1"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}
    assert "detox_lightning.ppo.module" in imported
    heavy = {"transformers", "peft", "datasets", "pandas", "scipy", "matplotlib"}
    assert imported.isdisjoint(heavy | {"torch._dynamo.eval_frame", "sympy"})
    assert [line for line in lines if not line.startswith("import time")] == [
        "error: --model.ppo_epoch: there is no such option; did you mean --model.ppo_epochs?",
        "See python -m detox_lightning fit --help",
    ]


LIGHT = """
import sys
from detox_lightning.__main__ import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("trian", 2)])
def test_help_and_a_misspelt_command_wait_for_no_import(word: str, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(detox_lightning.__file__).parents[1])}
    words = [sys.executable, "-c", LIGHT, word]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    for verb in VERBS:
        assert verb in done.stdout + done.stderr


BAR = """
import sys
from detox_lightning.__main__ import main
try:
    main(["fit", "--bogus=1"])
except SystemExit:
    from tqdm.auto import tqdm  # which datasets has its bars from
    print(tqdm([], disable=False, file=sys.stdout).delay)
"""


@pytest.mark.slow
def test_a_bar_that_lasts_an_instant_is_not_shown() -> None:
    unset = {"PYTHONPATH", "TQDM_DELAY"}
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", BAR], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout == "3.0\n", done.stderr


def test_the_script_is_the_module() -> None:
    script = '[project.scripts]\ndetox-lightning = "detox_lightning.__main__:main"\n'
    assert script in (ROOT / "pyproject.toml").read_text()


# -- what wins over what


def test_left_to_right() -> None:
    flag = "--model.ppo_epochs=3"
    overlay = Path("overlay.yaml")
    overlay.write_text("model: {init_args: {ppo_epochs: 5}}\ntrainer: {max_epochs: 9}\n")
    for words, epochs in [
        ((flag,), 3),
        ((f"--config={overlay}", flag), 3),
        ((flag, f"--config={overlay}"), 5),
    ]:
        config = printed("fit", "--config", DEMO, *words)
        assert config["model"]["init_args"]["ppo_epochs"] == epochs
        # what neither of them says stays
        assert config["model"]["init_args"]["mini_batch_size"] == 8


def test_the_seed_has_a_default() -> None:
    words = ("--model=PPOModule", "--model.policy=p", "--model.reward=ClassifierReward")
    words += ("--model.reward.model=c", "--data=DialogueDataModule", "--data.source=s")
    assert printed("fit", *words)["seed_everything"] == 42
    assert printed("fit", *words, "--seed_everything=7")["seed_everything"] == 7


@pytest.mark.parametrize(("given", "seed"), [("false", False), ("null", 0)])
def test_no_seed_is_lightning_s_to_choose(given: str, seed: int) -> None:
    """Without one, it is the environment's."""
    Path("seed.yaml").write_text(f"seed_everything: {given}")
    cli = IdleCLI(["fit", "--config", DEMO, "--config=seed.yaml"])
    assert cli.config.seed_everything is seed


class ProcessCLI(IdleCLI):
    """Notes what a run sees of its process: threads, precision, and the seed of children."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing else."""
        self.seen = seen_of_process()


def seen_of_process() -> tuple[int, str, str]:
    precision = torch.get_float32_matmul_precision()
    return torch.get_num_threads(), precision, os.environ["PL_GLOBAL_SEED"]


def test_threads_precision_and_seeds_are_a_run_s_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for flags, seen in [
            (("--threads=3", "--seed_everything=7"), (3, "highest", "7")),
            (("--threads=null", "--matmul_precision=high"), (2, "high", "42")),
        ]:
            assert ProcessCLI(["fit", "--config", DEMO, *flags]).seen == seen
            assert seen_of_process() == (2, "highest", "0")
    finally:
        torch.set_num_threads(before)


def test_a_run_knows_nothing_of_those_before_it(recipe: str, tmp_path: Path) -> None:
    goes_on = ("--ckpt_path=last", "--trainer.max_epochs=2")
    for flags in [("--debug",), goes_on, ("--data.validation_split=null",)]:
        cli = DetoxCLI(["fit", "--config", recipe, "--trainer.limit_train_batches=1", *flags])
    assert DetoxCLI.debug is False
    cards = [tmp_path / f"runs/tiny/version_{n}/adapter/README.md" for n in range(2)]
    assert ["## The last validation" in card.read_text() for card in cards] == [True, False]
    assert cli.trainer.callback_metrics.keys().isdisjoint({"val/toxicity", "val/kl"})


def test_each_run_tells_its_warnings() -> None:
    class Telling(IdleCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            for _ in range(2):
                warn_once("its weights are pickled")

    for _ in range(2):
        with pytest.warns(UserWarning, match="its weights are pickled") as told:
            Telling(["fit", "--config", DEMO])
        assert len(told) == 1


# -- what is refused


WRONG = {  # more of them: tests/bad_input
    "--model.ppo_epoch=1": "--model.ppo_epoch: there is no such option; did you mean "
    "--model.ppo_epochs?",
    "--model.kl.coef=-1": "--model.kl.coef=-1: must be a number of at least 0",
    '--model.kl={"coef": "high"}': "--model.kl.coef=high: must be a number of at least 0",
    "--model.kl={coef:1}": "--model.kl: must be a mapping of its options, such as {name: value}",
    "--model=NoModule": "--model=NoModule: there is no such class; did you mean PPOModule?",
    "--config=none.yaml": "--config=none.yaml: there is no such file here, and no such recipe",
    "--config=typo.yaml": "--model.mini_batch_siz: there is no such option; did you mean "
    "--model.mini_batch_size?",
    "--model.sampling.min_new_tokens=49": "sampling.min_new_tokens=49 is above max_new_tokens=48",
    "--model.micro_batch_size=3": "model.mini_batch_size=8 is not a multiple of "
    "model.micro_batch_size=3",
}


@pytest.mark.parametrize("flag", WRONG)
@pytest.mark.usefixtures("no_weights")
def test_what_makes_no_sense_is_told_in_a_line(flag: str) -> None:
    Path("typo.yaml").write_text("model: {init_args: {mini_batch_siz: 3}}\n")
    outcome = run("fit", "--config", DEMO, flag)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.errors
    assert f"{line}\n".startswith("error: " + WRONG[flag].replace("HERE", str(Path.cwd())))
    assert "usage:" not in outcome.err
    assert "Traceback" not in outcome.err


def test_what_is_missing_is_named() -> None:
    assert (
        run("fit").errors
        == run("test").errors
        == [
            "error: --data, --model: required, and not given; give --config configs/demo.yaml, "
            "or a run: --ckpt_path last"
        ]
    )
    words = ("fit", "--model=PPOModule", "--data=DialogueDataModule", "--data.source=s")
    missing = "error: --model.policy, --model.reward: required, and not given"
    assert run(*words).errors == [missing]


def test_an_option_may_be_called_like_the_one_it_is_in() -> None:
    supervised = str(ROOT / "configs" / "supervised.yaml")
    for flag, line in [
        ("--model.model=[1]", "error: --model.model=[1]: must be text"),
        ("--model.lora.r=0", "error: --model.lora.r=0: must be a whole number above 0"),
    ]:
        assert run("fit", "--config", supervised, flag).err.startswith(line)


def test_null_reaches_options_at_every_depth() -> None:
    words = ("--model.reward.label=null", "--model.kl.target=null", "--model.max_grad_norm=null")
    options = printed("fit", "--config", DEMO, *words)["model"]["init_args"]
    assert options["reward"]["init_args"]["label"] is None
    assert options["kl"]["target"] is None
    assert options["max_grad_norm"] is None


class Configured(Reward):
    """A reward with an argument named ``config``."""

    def __init__(self, config: str = "x"):
        super().__init__()
        self.config = config


def test_a_reward_may_have_an_argument_named_config() -> None:
    words = ("--model.reward=test_cli.Configured", "--model.reward.config=mine.json")
    reward = printed("fit", "--config", DEMO, *words)["model"]["init_args"]["reward"]
    assert reward == {"class_path": "test_cli.Configured", "init_args": {"config": "mine.json"}}


def test_whole_numbers_stay_whole_whoever_wrote_the_type_first() -> None:
    """Python remembers unions: this one, once written, may be what Lightning's own becomes."""
    parser = Parser()
    parser.add_argument("--x", type=Optional[Union[float, int]])  # noqa: UP045, UP007
    assert repr(parser.parse_args(["--x=1"]).x) == "1.0"
    parser.keep_whole_numbers()
    assert [repr(parser.parse_args([f"--x={x}"]).x) for x in ("1", "0.5", "1.0")] == [
        *("1", "0.5", "1.0")
    ]
    flag = "--trainer.limit_train_batches=1"
    assert repr(printed("fit", "--config", DEMO, flag)["trainer"]["limit_train_batches"]) == "1"


def test_messages_without_a_key_stay_as_they_are() -> None:
    assert summarize("unrecognized arguments: --x 1") == "unrecognized arguments: --x 1"


# -- failures of a run


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.policy=no/such", "can't open the config of 'no/such': "),
        ("--model.reward.label=kind", "has the labels nothate, hate"),
        ("--data.batch_size=6", "data.batch_size=6 is not a multiple of model.mini_batch_size=4"),
        ("--data.source=no/such.jsonl", "no/such.jsonl"),
    ],
)
def test_a_user_s_mistake_ends_with_code_2(recipe: str, flag: str, message: str) -> None:
    outcome = run("fit", "--config", recipe, flag)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert message in line
    assert "Traceback" not in outcome.err


def test_a_training_that_cannot_go_on_ends_with_code_1(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(self: ClassifierReward, *texts: list[str]) -> torch.Tensor:
        return torch.full((len(texts[0]),), torch.nan)

    monkeypatch.setattr(ClassifierReward, "forward", nonsense)
    outcome = run("fit", "--config", recipe, "--model.max_faults=0")
    assert outcome.code == 1
    (line,) = outcome.errors
    assert line.startswith("error: rollout 0: the reward 'nothate' gave nan for the response ")
    assert "Traceback" not in outcome.err
    assert not list(Path().rglob("*.ckpt"))
    assert not list(Path().rglob("adapter"))


@pytest.mark.parametrize("debug", [False, True])
def test_other_failures_show_their_traceback_on_request(
    recipe: str, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Evaluator, "validate", broken)
    outcome = run("fit", "--config", recipe, *(["--debug"] if debug else []))
    assert outcome.code == 1
    assert outcome.errors == [
        "error: ZeroDivisionError: ours (--debug shows where this comes from)"
    ]
    assert ("Traceback" in outcome.err) is debug


@pytest.mark.parametrize("flag", ["--debug", "--config=debug.yaml"])
def test_a_mistake_shows_its_traceback_on_request(recipe: str, flag: str) -> None:
    Path("debug.yaml").write_text("debug: true")
    outcome = run("fit", "--config", recipe, "--data.batch_size=6", flag)
    assert outcome.code == 2
    assert outcome.errors[0].startswith("error: data.batch_size=6 is not a multiple")
    assert "Traceback" in outcome.err


def test_causes_are_found_however_deep() -> None:
    wrapped = KeyError("outer")
    wrapped.__cause__ = RuntimeError("between")
    wrapped.__cause__.__context__ = InputError("inner")
    assert str(find_cause(wrapped, InputError)) == "inner"
    assert find_cause(wrapped, TrainingError) is None


def test_no_advertisements(recipe: str) -> None:
    outcome = run("test", "--config", recipe)
    assert outcome.code == 0, outcome.err
    assert "Toxicity, mean" in outcome.out
    assert "Tip:" not in outcome.out + outcome.err


# -- checkpoints


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "none.ckpt",
            "there is no such file or folder; give a checkpoint, the folder of a run, or last",
        ),
        ("text.ckpt", "this is not a checkpoint, or it is damaged; give a checkpoint, or last"),
        ("best", "only the run that made it knows it; give the file that is kept in"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    recipe: str, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "text.ckpt").write_text("mine")
    path = name if name == "best" else str(tmp_path / name)
    outcome = run("test", "--config", recipe, f"--ckpt_path={path}")
    assert outcome.code == 2
    assert outcome.errors[0].startswith(f"error: --ckpt_path {path}: {message}")


def test_answers_can_t_be_shorter_than_they_must(recipe: str) -> None:
    flags = ("--model.sampling.min_new_tokens=5", "--model.evaluation.max_new_tokens=3")
    outcome = run("test", "--config", recipe, *flags)
    assert outcome.errors == [
        "error: model.evaluation.max_new_tokens=3 is below model.sampling.min_new_tokens=5: "
        "raise it"
    ]


def test_a_label_that_isn_t_there_is_named_with_its_flag(recipe: str) -> None:
    outcome = run("test", "--config", recipe, "--model.evaluation.toxic_label=rude")
    assert outcome.code == 2
    assert outcome.errors[0].startswith("error: model.evaluation.toxic_label 'rude': the ")
    assert outcome.errors[0].endswith(" has the labels nothate, hate")


@pytest.fixture
def fitted(recipe: str, tmp_path: Path) -> Path:
    """The last checkpoint of a run of two rollouts."""
    outcome = run("fit", "--config", recipe)
    assert outcome.code == 0, outcome.err
    return tmp_path / "runs/tiny/version_0/checkpoints/last.ckpt"


def test_flags_win_over_a_checkpoint(recipe: str, fitted: Path) -> None:
    saved = torch.load(fitted, weights_only=True)
    assert saved["hyper_parameters"]["ppo_epochs"] == 2
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3
    flags = ("--model.optimizer.lr=0.5", "--model.ppo_epochs=1", "--trainer.max_epochs=2")
    cli = DetoxCLI(["fit", "--config", recipe, "--ckpt_path", str(fitted), *flags])
    assert (cli.model.rollouts, cli.model.options.epochs) == (4, 1)
    (optimizer,) = cli.trainer.optimizers
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]
    # two rollouts of 2 × 2 steps, two of 1 × 2: the optimizer's state is the checkpoint's
    assert {int(state["step"]) for state in optimizer.state.values()} == {12}


@pytest.mark.slow
def test_last_is_the_newest_run_s(recipe: str, fitted: Path) -> None:
    older = fitted.parents[2] / "version_7" / "checkpoints" / "last.ckpt"
    older.parent.mkdir(parents=True)
    older.write_bytes(b"not a checkpoint")
    os.utime(older, (0, 0))
    cli = DetoxCLI(["validate", "--config", recipe, "--ckpt_path", "last"])
    assert cli.model.rollouts == 2
    assert cli.config["ckpt_path"] == str(fitted)


def test_last_of_nothing(recipe: str, tmp_path: Path) -> None:
    outcome = run("test", "--config", recipe, "--ckpt_path", "last")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: --ckpt_path last: there is no */checkpoints/last*.ckpt in "
        f"{tmp_path}/runs/tiny; train first, with fit, or give a checkpoint or the folder of a run"
    ]

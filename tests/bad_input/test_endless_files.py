"""Configurations that are short and stand for millions of values, or have no end."""

import io
import os
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import printed, run
from detox_lightning.cli.parser import TOO_DEEP

NINE = "[" + ",".join(["{}"] * 9) + "]"
LAUGHS = "a0: &a0 " + NINE.format(*"xxxxxxxxx") + "\n"
LAUGHS += "".join(f"a{n}: &a{n} {NINE.format(*[f'*a{n - 1}'] * 9)}\n" for n in range(1, 9))
MANY = "its aliases (*) stand for more than 100000 values; write out those that are needed"
LONG = "is longer than 1000000 bytes, so no configuration; give a YAML file of this package's"
DEVICE = "this is a device, and no file; give a YAML file"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pour(text: str) -> Callable[[], None]:
    """Writes a text into a pipe for ever, until nobody reads on."""

    def write() -> None:
        os.mkfifo("pipe")
        threading.Thread(target=fill, daemon=True).start()

    def fill() -> None:
        try:
            with Path("pipe").open("w") as pipe:
                while True:
                    pipe.write(text)
        except BrokenPipeError:
            pass

    return write


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("laughs.yaml", lambda: Path("laughs.yaml").write_text(LAUGHS), MANY),
        ("long.yaml", lambda: Path("long.yaml").write_text("#" * 1_000_001), LONG),
        ("/dev/zero", lambda: None, DEVICE),
        ("/dev/urandom", lambda: None, DEVICE),
        ("pipe", pour("# on and on\n" * 1000), LONG),
    ],
)
def test_files_that_would_take_for_ever(name: str, make: Callable[[], Any], message: str) -> None:
    make()
    outcome = run("fit", f"--config={name}")
    [error] = outcome.errors
    assert error.startswith(f"error: --config={name}: ")
    assert message in error
    assert outcome.code == 2


def test_a_pipe_that_nobody_writes_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detox_lightning.cli.config_files.PATIENCE", 0.0)
    os.mkfifo("pipe")
    outcome = run("fit", "--config=pipe")
    said = ["error: --config=pipe: can't be read (nobody writes into this pipe)"]
    assert (outcome.errors, outcome.code) == (said, 2)


def test_standard_input_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def read(self, size: int) -> str:
            return "#" * size

    monkeypatch.setattr("sys.stdin", Endless())
    assert LONG in run("fit", "--config=-").errors[0]


@pytest.mark.parametrize("flag", ["--config", "--model.lora.options", "--trainer.callbacks"])
def test_words_that_stand_for_millions(flag: str) -> None:
    assert run("fit", flag, LAUGHS).errors == [f"error: {flag}: {MANY}"]


def test_aliases_that_stand_for_a_few_are_taken() -> None:
    Path("few.yaml").write_text(
        "trainer: {max_epochs: &n 7, limit_train_batches: *n}\ncheckpoint: {every_n_batches: *n}"
    )
    config = printed("fit", "--config=few.yaml")
    assert config["trainer"]["limit_train_batches"] == config["trainer"]["max_epochs"] == 7


def nested(text: str) -> str:
    return "class_path: PPOModule\ninit_args:\n  reward:\n" + textwrap.indent(text, "    ")


ROUND = "a: &a\n  b: 1\n  c: *a\n"


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("text", "message"),
    [(LAUGHS, MANY), (ROUND, "a.c contains itself; write out the value that the alias stands for")],
    ids=["many", "round"],
)
@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--model=model.yaml", "/model.yaml"),
        ("--config=outer.yaml", "/model.yaml"),
        ("--config=outermost.yaml", "/reward.yaml"),
        ("--trainer.logger=model.yaml", "/model.yaml"),
        ("--config=-", "YAML that was given"),
    ],
)
def test_wherever_it_is_read(
    flag: str, named: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("model.yaml").write_text(nested(text))
    Path("reward.yaml").write_text(text)
    Path("outer.yaml").write_text("model: model.yaml\n")
    Path("outermost.yaml").write_text(
        "model: {class_path: PPOModule, init_args: {reward: reward.yaml}}\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    outcome = run("fit", flag)
    [error] = outcome.errors
    assert f"{named}: " in error or f"{named}, line " in error, error
    assert error.endswith(message), error
    assert outcome.code == 2


@pytest.mark.parametrize("flag", ["--model", "--trainer.logger", "--data"])
def test_a_pipe_in_place_of_a_class(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detox_lightning.cli.config_files.PATIENCE", 0.0)
    os.mkfifo("pipe")
    outcome = run("fit", f"{flag}=pipe")
    said = [f"error: {Path('pipe').absolute()}: can't be read (nobody writes into this pipe)"]
    assert (outcome.errors, outcome.code) == (said, 2)


def test_an_option_s_file_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("long.yaml").write_text("#" * 1_000_001)
    outcome = run("fit", "--model=long.yaml")
    assert LONG in outcome.errors[0]
    assert outcome.code == 2


def test_an_option_s_file_is_nested_too_deeply() -> None:
    Path("deep.yaml").write_text("[" * 5000 + "]" * 5000)
    outcome = run("fit", "--model=deep.yaml")
    assert outcome.errors == [f"error: {TOO_DEEP}"]
    assert outcome.code == 2


def test_a_model_s_file_is_taken() -> None:
    Path("model.yaml").write_text("class_path: SupervisedModule\ninit_args: {model: x}\n")
    config = printed("fit", "--model=model.yaml")
    assert config["model"]["init_args"]["model"] == "x"


def test_a_model_s_file_is_utf8() -> None:
    Path("latin.yaml").write_bytes(b"class_path: \xe9")
    outcome = run("fit", "--model=latin.yaml")
    file = Path("latin.yaml").absolute()
    said = f"error: {file}: byte 12 is not UTF-8; give a YAML file, saved as UTF-8"
    assert (outcome.errors, outcome.code) == ([said], 2)


def test_a_model_s_pipe_is_read() -> None:
    os.mkfifo("pipe")
    text = "class_path: SupervisedModule\ninit_args: {model: x}\n"
    threading.Thread(target=lambda: Path("pipe").write_text(text), daemon=True).start()
    assert printed("fit", "--model=pipe")["model"]["init_args"]["model"] == "x"

"""No file of a run, no log and no message tells a token or a password."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from command import run, tiny_recipe
from detox_lightning.redaction import redact, redact_words, without_passwords, without_secrets

SECRET = "tops3cret"
ADDRESS = f"https://me:{SECRET}@example.org/x.txt"


class KeyedLogger(CSVLogger):
    """A logger that wants to know who asks."""

    def __init__(self, save_dir: str, api_key: str, server: str):
        super().__init__(save_dir)
        assert SECRET in api_key  # it got what was given
        assert SECRET in server


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    return tiny_recipe(tmp_path, tiny_t5, tiny_classifier)


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def test_no_file_of_a_run_tells(recipe: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_dir": "runs", "api_key": SECRET, "server": ADDRESS}
    keyed = {"class_path": f"{__name__}.KeyedLogger", "init_args": options}
    board = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}}
    flags = [f"--trainer.logger={json.dumps([board, keyed])}", f"--data.predict_source={ADDRESS}"]
    fitted = run("fit", "--config", recipe, *flags, "--export.merged=true")
    assert fitted.code == 0, fitted.err
    (last,) = tmp_path.glob("runs/**/last.ckpt")
    tested = run("test", "--config", recipe, *flags, f"--ckpt_path={last}")
    assert tested.code == 0, tested.err
    written = files(tmp_path / "runs")
    names = {file.name for file in written}
    assert {"config.yaml", "hparams.yaml", "metrics.csv", "summary.json", "report.html"} <= names
    assert {"README.md", "adapter_config.json", "comparison.parquet"} <= names
    assert [file for file in written if SECRET.encode() in content(file)] == []
    for told in (fitted, tested):
        assert SECRET not in told.out + told.err
    # and where it stood, it says so
    config = (last.parents[1] / "config.yaml").read_text()
    (_, logger) = yaml.safe_load(config)["trainer"]["logger"]
    assert logger["init_args"] == {
        "save_dir": "runs",
        "api_key": "***",
        "server": "https://***@example.org/x.txt",
    }
    assert config.startswith("# lightning.pytorch==")


def content(file: Path) -> bytes:
    """A file's bytes; a checkpoint's unpacked."""
    if file.suffix != ".ckpt":
        return file.read_bytes()
    return file.read_bytes() + str(torch.load(file, weights_only=True)).encode()


def test_messages_dont_tell(recipe: str) -> None:
    outcome = run("fit", "--config", recipe, f"--data.source={ADDRESS}")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: https://***@example.org/x.txt: there is no such file or folder; check the path"
    ]
    assert SECRET not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:pw@host/a?b=c@d", "at https://***@host/a?b=c@d"),
        ("hf://token@datasets/x", "hf://***@datasets/x"),
        ("https://u:p@ss@h", "https://***@h"),
        ("https://h/x?token=abc&page=2", "https://h/x?token=***&page=2"),
        ("s3://h/x?a=1&X-Amz-Signature=abc and", "s3://h/x?a=1&X-Amz-Signature=*** and"),
        ("https://h/x?key=a#b, ?design=c", "https://h/x?key=***#b, ?design=c"),
        ("['https://h', 'me@x']", "['https://h', 'me@x']"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("me@example.org and https://host/me@x", "me@example.org and https://host/me@x"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_only_texts_with_a_secret_name_are_hidden() -> None:
    tree = {
        "api_key": "a",
        "hf_token": "b",
        "token": None,
        "max_new_tokens": 48,
        "monkey": "c",
        "keys": ["d", {"Password": "e"}],
        "client.secret": "f",
        "token_limit": "g",
    }
    assert without_secrets(tree) == {
        "api_key": "***",
        "hf_token": "***",
        "token": None,
        "max_new_tokens": 48,
        "monkey": "c",
        "keys": ["d", {"Password": "***"}],
        "client.secret": "***",
        "token_limit": "g",
    }


def test_words_of_a_command_line() -> None:
    words = ["--x.token", "a", "--x.api_key=b", '{"token": "c"}', "--n_tokens=4", "hf://d@e"]
    shown = ["--x.token", "***", "--x.api_key=***", '{"token": "***"}', "--n_tokens=4"]
    assert redact_words(words) == [*shown, "hf://***@e"]


def test_what_is_within_a_secret_is_hidden_too() -> None:
    tree = {
        "apikey": "a",
        "auth": {"class_path": "Basic", "init_args": {"user": "b", "retries": 3, "on": True}},
        "Authorization": "Bearer c",
        "hf_token": ["d", None],
        "password": 123456,
        "hub": "https://h/x?token=abc",
    }
    assert without_secrets(tree) == {
        "apikey": "***",
        "auth": {"class_path": "Basic", "init_args": {"user": "***", "retries": "***", "on": True}},
        "Authorization": "***",
        "hf_token": ["***", None],
        "password": "***",
        "hub": "https://h/x?token=***",
    }


INNOCENT = {
    "hockey": 1,
    "pad_token": "<pad>",
    "special": {f"{name}_token": "<x>" for name in ("eos", "bos", "unk", "sep", "cls", "mask")},
    "label_map": {"key": "toxic", "token": 0},
}


def test_what_only_looks_like_a_secret_stays() -> None:
    assert without_secrets(INNOCENT) == INNOCENT
    words = [
        "--monkey=3",
        "{hockey: 1}",
        json.dumps(INNOCENT),
        "--x.label_map={key: toxic}",
        "--x.label_map",
        "{key: toxic}",
        "--x.label_map.key=toxic",
        "--x.pad_token=<pad>",
    ]
    assert redact_words(words) == words
    for word in (word for word in words if word != "{key: toxic}"):  # alone it could be anything
        assert redact(word) == word


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("--x.password=my secret pass", "--x.password=***"),
        ("--x.token=a,b", "--x.token=***"),
        ("--x.token+=a", "--x.token+=***"),
        ("--x.hf_token=[a, b]", "--x.hf_token=***"),
        ("{token: my secret pass, a: [1]}", '{"token": "***", "a": [1]}'),
        ("--x={hf_token: [a], b: é}", '--x={"hf_token": ["***"], "b": "é"}'),
        ("--x={token: a", "--x={token: ***"),
        ("--x=https://h?sig=abc", "--x=https://h?sig=***"),
    ],
)
def test_all_of_a_secret_word_is_hidden(word: str, shown: str) -> None:
    assert redact_words([word]) == [shown]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--x.password=my pass: must be a number", "--x.password=***: must be a number"),
        ("--x.api_key=a,b", "--x.api_key=***"),
        ("x.api_key=a: too short", "x.api_key=***: too short"),
        ("got {'client.secret': 'a b', 'n': 1}", "got {'client.secret': ***, 'n': 1}"),
        ("x-api-key: Basic abc; no", "x-api-key: ***; no"),
        ("--x.api_key: required, and not given", "--x.api_key: required, and not given"),
    ],
)
def test_messages_are_discreet(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_neither_errors_of_the_parser_nor_tracebacks_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run("fit", "--model=PPOModule", f"--trainer.logger.tokn=https://a:{SECRET}@h")
    assert SECRET not in outcome.err
    outcome = run("fit", f"--seed_everything=token={SECRET}")
    shown = "error: --seed_everything=token=***: must be true or false, or a whole number"
    assert outcome.errors == [shown]

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"401 for token={SECRET}")

    monkeypatch.setattr("detox_lightning.cli.command.DetoxCLI.before_instantiate_classes", fail)
    words = ("--model=PPOModule", "--model.policy=p", "--model.reward=ClassifierReward")
    words += ("--model.reward.model=c", "--data=DialogueDataModule", "--data.source=s", "--debug")
    outcome = run("fit", *words)
    assert outcome.errors == [
        "error: RuntimeError: 401 for token=*** (--debug shows where this comes from)"
    ]
    assert "Traceback" in outcome.err
    assert SECRET not in outcome.err

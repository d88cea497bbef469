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
from detox_lightning.secrecy import discreet_words, without_passwords, without_secrets

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
    assert discreet_words(words) == [*shown, "hf://***@e"]

"""The command line inside a test's process, and a recipe small enough for it."""

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import yaml

from conftest import FEELINGS, NAMES
from detox_lightning.__main__ import main
from detox_lightning.cli.command import DetoxCLI

ROOT = Path(__file__).resolve().parents[1]
DEMO = str(ROOT / "configs" / "demo.yaml")


def module_of(file: Path, name: str | None = None) -> ModuleType:
    """Imports a file that is no part of a package, such as a script."""
    spec = importlib.util.spec_from_file_location(name or file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def run(*words: str) -> Outcome:
    """What ``python -m detox_lightning`` does with these words."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def printed(*words: str) -> dict:
    """The configuration that the words amount to."""
    outcome = run(*words, "--print_config")
    assert outcome.code == 0, outcome.err
    return yaml.safe_load(outcome.out)


class IdleCLI(DetoxCLI):
    """Makes everything a command needs, and stops there."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def tiny_recipe(folder: Path, policy: str, classifier: str) -> str:
    """Writes 24 dialogues, and a configuration for two rollouts on them, whose path it gives."""
    feelings = [(name, feeling) for feeling in FEELINGS[:3] for name in NAMES]
    splits = {"train": feelings, "validation": feelings[:6], "test": feelings[6:13]}
    for split, pairs in splits.items():
        rows = [
            {"dialogue": f"{name} : {feeling} and late", "summary": f"{name} is {feeling} ."}
            for name, feeling in pairs
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"class_path": "ClassifierReward", "init_args": {"model": classifier}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    data = {"source": str(folder), "min_chars": None, "batch_size": 8, "eval_batch_size": 4}
    tensorboard = {"save_dir": str(folder / "runs"), "name": "tiny"}
    config = {
        "model": {
            "class_path": "PPOModule",
            "init_args": {
                "policy": policy,
                "reward": reward,
                "lora": {"r": 4},
                "sampling": {"max_new_tokens": 6},
                "ppo_epochs": 2,
                "optimizer": adam,
            },
        },
        "data": {"class_path": "DialogueDataModule", "init_args": data},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "limit_train_batches": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": tensorboard},
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)

"""Every recipe is understood as it stands, and says what it is for."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import detox_lightning.modules
from command import ROOT, IdleCLI, printed
from detox_lightning import data
from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.runs import find_checkpoint
from detox_lightning.runs.checkpointing import BoundedCheckpoint

CONFIGS = sorted(
    path for folder in ("configs", "examples") for path in (ROOT / folder).rglob("*.yaml")
)
OVERLAYS = [path for path in CONFIGS if path.parent.name == "overlays"]
# this machine's hardware is not what is tested
ANYWHERE = ("--trainer.accelerator=cpu",)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the repository's root, where commands are typed; a run there has left a checkpoint."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setattr(find_checkpoint, "last_checkpoint", lambda place: Path("last.ckpt"))
    monkeypatch.setattr(find_checkpoint, "check_parts", lambda checkpoint, verb: None)


def header(path: Path) -> list[str]:
    """The comment that a file begins with, line by line."""
    lines = path.read_text(encoding="utf8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:end]]


def commands(path: Path) -> list[list[str]]:
    """The header's command lines, in words."""
    shown = [line.strip() for line in header(path) if line.startswith("  ")]
    return [shlex.split(line) for line in shown]


def layers(path: Path) -> list[str]:
    """The words that name a file, and the recipe beneath it if it is an overlay."""
    if path not in OVERLAYS:
        return ["--config", name(path)]
    (words, *_) = [words for words in commands(path) if name(path) in words]
    return [word for word in words if word == "--config" or word.endswith(".yaml")]


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_says_what_it_is_for(path: Path) -> None:
    first, *others = header(path)
    assert len(first) > 30
    assert first.endswith((".", "="))
    assert sum(line.startswith("Hardware: ") for line in others) == 1
    assert sum(line.startswith("Expect: ") for line in others) == 1
    assert commands(path)


@pytest.mark.quick(6)
@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_makes_all_it_names(path: Path) -> None:
    made = IdleCLI(["fit", *layers(path), *ANYWHERE])
    config = made.config
    for part, module in (("model", detox_lightning.modules), ("data", data)):
        thing = made.model if part == "model" else made.datamodule
        assert type(thing).__name__ in module.__all__
        assert config[part]["class_path"].endswith(type(thing).__name__)
    kinds = {type(callback) for callback in made.trainer.callbacks}
    assert {BoundedCheckpoint, ExportCallback, SamplesCallback, PredictionsCallback} <= kinds
    # the flags' word is what the objects go by
    assert made.trainer.max_epochs == config["trainer"]["max_epochs"]
    assert made.datamodule.loaders.batch_size == config["data"]["init_args"]["batch_size"]


@pytest.mark.quick(6)
@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_commands_can_be_typed(path: Path) -> None:
    for program, *words in commands(path):
        if program == "tensorboard":
            assert words == ["--logdir", logs(path)]
            continue
        if words[:1] == ["-m"] and words[1].startswith("examples."):
            assert (ROOT / words[1].replace(".", "/")).with_suffix(".py").exists()
            continue
        if program == "pip" or not words[0].startswith("-"):
            assert words[0] == "install" or (ROOT / words[0]).exists()
            continue
        assert (program, *words[:2]) == ("python", "-m", "detox_lightning")
        if words[2:] != ["fit", *layers(path)]:  # else the test above has done so
            IdleCLI([*words[2:], *ANYWHERE])


def logs(path: Path) -> str:
    config = yaml.safe_load(path.read_text(encoding="utf8"))
    return config["trainer"]["logger"]["init_args"]["save_dir"]


@pytest.mark.quick(3)
@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_an_overlay_changes_what_it_says_and_no_more(path: Path) -> None:
    *beneath, _, _ = layers(path)
    before, after = (flat(printed("fit", *words)) for words in (beneath, layers(path)))
    overlay = flat(yaml.safe_load(path.read_text(encoding="utf8")))
    assert {**after, **overlay} == after
    # another class has other options
    other = tuple(key.removesuffix("class_path") for key in overlay if key.endswith("class_path"))
    changed = {key for key in after.keys() | before.keys() if after.get(key) != before.get(key)}
    assert changed
    assert {key for key in changed if not key.startswith(other)} <= overlay.keys()


def flat(config: dict, prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    items: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{key}.")
        else:
            items[f"{prefix}{key}"] = value
    return items


def test_flags_in_comments_exist() -> None:
    known: set[str] = set()
    for stage in ("supervised", "reward", "ppo", "causal", "causal-smollm2"):
        for key in flat(printed("fit", "--config", f"configs/{stage}.yaml")):
            parts = key.replace(".init_args", "").split(".")
            known |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    for path in CONFIGS:
        flags = set(re.findall(r"--((?:\w+\.)+\w+)", "\n".join(header(path))))
        assert flags <= known, path

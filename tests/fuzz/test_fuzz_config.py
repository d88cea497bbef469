"""Whatever a configuration says, everything it names is made, or one line says what is wrong."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import detox_lightning.cli.command as cli
from command import ROOT, IdleCLI, run
from detox_lightning.models import loading
from fuzz.budget import count, drawn

pytestmark = pytest.mark.slow  # tests/bad_input has a row for what such files have found

RECIPES = {
    name: yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf8"))
    for name in ("demo", "ppo", "causal", "supervised", "reward")
}
WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, "", " ", "null", "x", "demo:policy", "{}", "[1", "a: b: c"]
    ),
    st.sampled_from([0, 1, -1, 7, 2**70, 0.5, -0.5, 1e400, float("nan"), [], {}, [[]], {"x": 1}]),
    st.sampled_from(["PPOModule", "RewardModule", "DialogueDataModule", "torch.optim.SGD", "a.b"]),
    WORDS,
)
FLAGS = st.sampled_from(
    [
        *("--model", "--model.ppo_epochs", "--model.kl", "--model.reward", "--model.optimizer.lr"),
        *("--data", "--data.batch_size", "--data.source", "--trainer.max_epochs", "--config"),
        *("--trainer.logger", "--trainer.devices", "--seed_everything", "--threads", "--x", "-x"),
        *("--trainer.callbacks", "--trainer.precision", "--checkpoint.every_n_rollouts"),
    ]
)


@pytest.fixture(scope="module", autouse=True)
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands stop when all is made; none may open a model or change this process."""

    def refuse(what: str, name: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"opened the {what} {name}")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setattr(cli, "DetoxCLI", IdleCLI)
        patch.setattr(loading, "open_by_name", refuse)
        patch.setattr(torch, "set_num_threads", lambda number: None)
        yield


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values within dicts and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """A recipe with up to three values dropped, renamed or replaced, as YAML; or odd YAML."""
    config = copy.deepcopy(RECIPES[draw(st.sampled_from(sorted(RECIPES)))])
    for _ in range(draw(st.integers(1, 3))):
        if not (there := list(places(config))):
            break
        *way, key = draw(st.sampled_from(there))
        inner = config
        for step in way:
            inner = inner[step]
        how = draw(st.sampled_from(["drop", "rename", "replace", "add"]))
        if how == "replace" or isinstance(inner, list):
            inner[key] = draw(VALUES)
        elif how == "add":
            inner[draw(WORDS)] = draw(VALUES)
        elif how == "rename":
            inner[f"{key}{draw(WORDS)}"] = inner.pop(key)
        else:
            del inner[key]
    text = yaml.safe_dump(config, allow_unicode=True)
    if draw(st.integers(0, 4)):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(st.text(st.characters(codec="utf-8"), max_size=4)) + text[place:]


def check(*words: str) -> None:
    outcome = run("fit", *words, "--trainer.accelerator=cpu")
    assert "Traceback" not in outcome.err
    if outcome.code == 0:
        assert outcome.errors == []
        return
    assert (outcome.code, len(outcome.errors)) == (2, 1), outcome.err[-2000:]


@drawn(brief=14, looping=60)
@given(text=configurations())
def test_a_file_is_understood_or_a_line_says_why_not(text: str) -> None:
    count("config.file")
    Path("fuzz.yaml").write_text(text, encoding="utf8")
    check("--config", "fuzz.yaml")


@drawn(brief=14, looping=60)
@given(flags=st.lists(st.tuples(FLAGS, VALUES), min_size=1, max_size=3))
def test_flags_are_understood_or_a_line_says_why_not(flags: list[tuple[str, Any]]) -> None:
    count("config.flags")
    demo = str(ROOT / "configs" / "demo.yaml")
    check("--config", demo, *(f"{flag}={value}" for flag, value in flags))

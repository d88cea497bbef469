"""``--config configs/NAME`` outside the repository: the package brings its recipes."""

import shutil
from pathlib import Path

import pytest

from command import ROOT, printed, run
from detox_lightning.cli import recipes
from detox_lightning.cli.recipes import find_recipe
from detox_lightning.errors import InputError

NO_SUCH = "there is no such file here, and no such recipe in the package"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tmp_path


def test_all_recipes_of_the_repository_are_there_by_name() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert recipes.recipes() == {str(file.relative_to(ROOT)): file for file in files}
    assert {"configs/demo.yaml", "configs/overlays/gae.yaml"} < set(recipes.recipes())


def test_installed_they_lie_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "detox_lightning"
    shutil.copytree(ROOT / "configs" / "overlays", package / "configs" / "overlays")
    monkeypatch.setattr(recipes, "__file__", str(package / "cli/recipes.py"))
    gae = package / "configs" / "overlays" / "gae.yaml"
    assert find_recipe("configs/overlays/gae.yaml") == str(gae)
    with pytest.raises(InputError):
        find_recipe("configs/demo.yaml")


def test_a_command_reads_them_and_layers_on_them() -> None:
    config = printed("fit", "--config", "configs/demo.yaml", "-c=./configs/overlays/gae.yaml")
    assert config["model"]["init_args"]["policy"] == "demo:policy"
    assert config["model"]["init_args"]["advantage"]["class_path"].endswith(".GAE")


def test_a_file_here_wins(elsewhere: Path) -> None:
    here = elsewhere / "configs" / "demo.yaml"
    here.parent.mkdir()
    here.write_text("seed_everything: 7\n")
    config = printed("fit", "--config", "configs/demo.yaml")
    assert (config["seed_everything"], config.get("model")) == (7, None)


@pytest.mark.parametrize(
    "given",
    ["seed_everything: 3", '{"threads": 1}', "a: 1\nb: 2.yaml", "https://example.org/a.yaml"],
)
def test_what_is_no_path_of_this_machine_is_left_alone(given: str) -> None:
    assert find_recipe(given) == given


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("configs/demos.yaml", "configs/demo.yaml"),
        ("configs/overlay/bf16.yml", "configs/overlays/bf16.yaml"),
        ("demo.yaml", "configs/demo.yaml"),
        ("configs/../configs/demo.yml", "configs/demo.yaml"),
    ],
)
def test_the_nearest_is_named(given: str, nearest: str) -> None:
    outcome = run("fit", "--config", given)
    assert outcome.errors == [f"error: --config={given}: {NO_SUCH}; did you mean {nearest}?"]
    assert outcome.code == 2


@pytest.mark.parametrize("given", ["x", "/nowhere"])
def test_or_all_there_are(given: str) -> None:
    with pytest.raises(InputError) as raised:
        find_recipe(given)
    names = ", ".join(recipes.recipes())
    assert str(raised.value) == f"--config={given}: {NO_SUCH}; its recipes are {names}"


def test_help_tells_of_them() -> None:
    shown = " ".join(run("fit", "--help_all").out.split())
    assert "configs/NAME is the package's own if there is no such file here." in shown

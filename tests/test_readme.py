"""What the documents tell people to type can be typed, and what they point at is there."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from command import ROOT, IdleCLI
from detox_lightning import resume

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf8")
PYTHON = re.compile(r"(?:\.venv/bin/)?python3? -m ")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_lines(path: Path) -> list[str]:
    """Lines of fenced and of indented blocks, comments and continuation marks taken off."""
    text = path.read_text(encoding="utf8").replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    lines = [*(line for block in fenced for line in block.splitlines()), *indented]
    return [line.partition("  #")[0].strip() for line in lines]


LINES = list(dict.fromkeys(line for path in DOCUMENTS for line in code_lines(path)))
MODULES = [PYTHON.sub("", line) for line in LINES if PYTHON.match(line)]
COMMANDS = [line for line in MODULES if line.startswith("detox_lightning ")]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the repository's root, where commands are typed; a run there has left a checkpoint."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setattr(resume, "last_checkpoint", lambda place: Path("last.ckpt"))


def test_the_readme_shows_how_to_begin() -> None:
    lines = code_lines(ROOT / "README.md")
    assert {"make demo", "make test"} <= set(lines)
    assert "detox_lightning fit --config configs/demo.yaml" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    _, verb, *words = shlex.split(command)
    if "--print_config" in words:
        with pytest.raises(SystemExit) as end:
            IdleCLI([verb, *words])
        assert end.value.code == 0
    else:
        IdleCLI([verb, *words, "--trainer.accelerator=cpu"])


def test_modules_and_files_of_commands_exist() -> None:
    for line in MODULES:
        assert importlib.util.find_spec(line.split()[0]), line
    for line in LINES:
        for file in re.findall(r"\bpip install .*-[cr] (\S+)", line):
            assert (ROOT / file).exists(), line


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    texts = [path.read_text(encoding="utf8") for path in DOCUMENTS]
    named = {
        target for text in texts for target in re.findall(r"^    make (\w+)|`make (\w+)", text)
    }
    named = {target for pair in named for target in pair if target}
    named |= set(re.findall(r"make .*?(\w+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    paths = re.findall(r"`((?:configs|src|docs|tests)/[\w./*-]+)`", text)
    assert [named for named in paths if not list(ROOT.glob(named))] == []


def test_nothing_was_left_to_fill_in() -> None:
    for path in DOCUMENTS:
        assert not re.search(r"@@|TODO|TBD|XXX", path.read_text(encoding="utf8")), path


def test_every_recipe_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    recipes = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/notebooks/*.yaml")]
    assert [path for path in recipes if f"`{name(path)}`" not in text] == []


def test_the_map_of_folders_is_true() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    (block,) = re.findall(r"^## The folders\n+```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    folder = ROOT
    for line in block.splitlines():
        entries = re.match(r"( *)([^\s,]+(?:, [^\s,]+)*)", line)
        inside = folder if entries[1] else ROOT
        for entry in entries[2].split(", "):
            assert (inside / entry).exists(), line
        folder = folder if entries[1] else ROOT / entries[2]

"""What the documents point at is there; that their code works is in test_docs.py."""

import re
from pathlib import Path

import pytest

from command import ROOT
from pages import PAGES, blocks, lines, name

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf8")


def test_the_readme_shows_how_to_begin() -> None:
    shown = [line for block in blocks(ROOT / "README.md") for line in lines(block)]
    assert "make demo" in shown
    assert ".venv/bin/python -m detox_lightning fit --config configs/demo.yaml" in shown


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf8").splitlines()) <= 120


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    texts = [path.read_text(encoding="utf8") for path in PAGES]
    named = {target for text in texts for target in re.findall(r"`make ([\w-]+)", text)}
    named |= set(re.findall(r"make .* ([\w-]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert {"demo", "docs", "test", "world"} <= named <= targets


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    paths = re.findall(r"`((?:configs|src|docs|tests)/[\w./*-]+)`", text)
    assert [named for named in paths if not list(ROOT.glob(named))] == []


def test_nothing_was_left_to_fill_in() -> None:
    for path in PAGES:
        assert not re.search(r"@@|TODO|TBD|XXX", path.read_text(encoding="utf8")), path


def test_every_recipe_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    recipes = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/notebooks/*.yaml")]
    assert [path for path in recipes if f"`{name(path)}`" not in text] == []


def test_the_map_of_folders_is_true() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    (block,) = re.findall(r"^## The folders\n+```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    folder = ROOT
    for line in block.splitlines():
        entries = re.match(r"( *)([^\s,]+(?:, [^\s,]+)*)", line)
        inside = folder if entries[1] else ROOT
        for entry in entries[2].split(", "):
            assert (inside / entry).exists(), line
        folder = folder if entries[1] else ROOT / entries[2]

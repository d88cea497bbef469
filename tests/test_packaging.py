"""Versions that are allowed, pinned and oldest fit together; what is imported is declared."""

import ast
import importlib.util
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from command import ROOT

SOURCE = ROOT / "src" / "detox_lightning"
MALICIOUS = {"lightning": ("2.6.2", "2.6.3")}
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf8")


def listed(section: str) -> dict[str, Requirement]:
    """A list of pyproject.toml by name; Python 3.10 has no reader for it."""
    (block,) = re.findall(rf"^{section} = \[(.*?)\]$", TEXT, re.MULTILINE | re.DOTALL)
    needed = [Requirement(line) for line in re.findall(r'"([^"]+)"', block)]
    return {canonicalize_name(each.name): each for each in needed}


def versions(file: str) -> dict[str, Version]:
    """What a file of constraints holds each package to."""
    lines = [line.partition(";")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


RUNTIME = {**listed("dependencies"), **listed("ctranslate2"), **listed("quantized")}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    bounds = {
        name: Version(next(each.version for each in needed.specifier if each.operator == ">="))
        for name, needed in RUNTIME.items()
    }
    assert versions("constraints-minimum.txt") == bounds


@pytest.mark.parametrize("name", [*RUNTIME, *listed("dev")])
def test_pins_are_within_the_bounds(name: str) -> None:
    needed = (RUNTIME | listed("dev"))[name]
    assert versions("constraints.txt")[name] in needed.specifier


@pytest.mark.parametrize(("name", "bad"), MALICIOUS.items())
def test_malicious_uploads_are_out_of_bounds(name: str, bad: tuple[str, ...]) -> None:
    assert [version for version in bad if Version(version) in RUNTIME[name].specifier] == []
    for file in ("constraints.txt", "constraints-minimum.txt"):
        assert str(versions(file)[name]) not in bad


def test_what_is_imported_is_declared() -> None:
    owners = packages_distributions()
    needed: dict[str, Path] = {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            needed |= {name.partition(".")[0]: file for name in names}
    others = set(needed) - set(sys.stdlib_module_names) - {"detox_lightning"}
    assert {"torch", "yaml", "huggingface_hub"} <= others
    undeclared = {
        name: str(needed[name])
        for name in others
        if not {canonicalize_name(owner) for owner in owners[name]} & set(RUNTIME)
    }
    assert undeclared == {}


@pytest.fixture(scope="module")
def licenses() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licenses", ROOT / "scripts" / "licenses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_licences_names_every_pinned_dependency(licenses: ModuleType) -> None:
    page = (ROOT / "docs" / "licenses.md").read_text(encoding="utf8")
    rows = {
        canonicalize_name(name): (Version(version), license)
        for name, version, license in re.findall(r"^\| (\S+) \| (\d\S*) \| (.+) \|$", page, re.M)
    }
    pins = versions("constraints.txt")
    for name in map(canonicalize_name, licenses.runtime()):
        if name in pins:
            assert rows[name][0] == pins[name], f"{name}: make licenses"
    assert set(rows) > set(listed("dependencies"))
    assert "not stated" not in page


def test_copyleft_is_flagged(licenses: ModuleType) -> None:
    told = "LGPL-3.0-only", "MPL-2.0 AND MIT", "GNU General Public License v3 (GPLv3)"
    assert [bool(licenses.COPYLEFT.search(text)) for text in (*told, "MIT")] == [True] * 3 + [False]
    foot = (ROOT / "docs" / "licenses.md").read_text(encoding="utf8").partition("Copyleft")[2]
    assert re.findall(r"([\w-]+) \((?:MPL-|Mozilla)", foot) == ["certifi", "tqdm"]

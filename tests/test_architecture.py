"""Who may import whom: the table of docs/architecture.md."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import detox_lightning

ROOT = Path(detox_lightning.__file__).parent
PACKAGE = detox_lightning.__name__
FILES = [file for file in sorted(ROOT.rglob("*.py")) if file.parent != ROOT or file.stem[0] != "_"]

ANYONE = {"deferral", "errors", "secrecy", "seeding"}
# Each room, and what it may import besides itself and ANYONE: rooms, or single modules of one.
ALLOWED: dict[str, set[str]] = {
    "cli": {
        "parsing",
        "reading",
        "configuration",
        "flags",
        "quiet",
        "resume",
        "trainer",
        "callbacks",
        "modules",
        "data",
        "evaluation",
        "rewards",
        "models",
        "algorithm",
        "demo",
    },
    "parsing": {"wording", "recipes"},
    "reading": {"configuration", "recipes"},
    "configuration": {"recipes"},
    "flags": set(),
    "quiet": set(),
    "trainer": {"callbacks"},
    "wording": set(),
    "recipes": set(),
    "resume": {"callbacks"},
    "callbacks": {"modules", "data", "report", "evaluation", "rollout", "rewards", "models"},
    "modules": {"batch", "data", "evaluation", "rollout", "rewards", "models", "algorithm"},
    "data": {"batch", "models.loading", "demo"},
    "report": {"evaluation", "rewards.words"},
    "evaluation": {"batch", "rollout", "rewards", "models", "algorithm"},
    "rollout": {"batch", "rewards", "models", "algorithm"},
    "rewards": {"models"},
    "models": {"algorithm", "demo"},
    "algorithm": set(),
    "demo": set(),
    "batch": set(),
    "deferral": set(),
    "errors": set(),
    "secrecy": set(),
    "seeding": set(),
}
# A command for those who change the demo, not a part of what the package does.
ABOVE_ALL = "demo/build.py"

KNOWS_LIGHTNING = {"cli", "parsing", "trainer", "resume", "callbacks", "modules", "data"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
PURE = {"torch", "jsonargparse", "typing_extensions"}
HEAVY = {"transformers", "peft", "datasets", "evaluate", "rouge_score"}
HEAVY |= {"scipy", "matplotlib", "jinja2", "pyarrow", "pandas", "tensorboard"}
# Classes of those libraries, whose modules nobody imports at once.
BY_THEMSELVES = ("evaluation/measurement.py", "models/decoding/cache_layers.py", "data/builders.py")
STANDARD_LIBRARY = {"abc", "collections", "dataclasses", "math", "typing"}


class Import(NamedTuple):
    name: str
    at_once: bool  # when the module is imported, not when a function runs


def imports(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf8"))
    at_once = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, id(node) in at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            yield Import(node.module or "", id(node) in at_once)


def inside(file: Path) -> Iterator[str]:
    """What a file imports of this package, without the package's name."""
    for name, _ in imports(file):
        if name.startswith(f"{PACKAGE}."):
            yield name.removeprefix(f"{PACKAGE}.")


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def each_file(files: list[Path] = FILES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


def test_the_table_is_complete() -> None:
    assert {room(file) for file in FILES} == set(ALLOWED)


def test_nobody_imports_upwards() -> None:
    """What a room may import stands below it in the table, so that there are no circles."""
    order = list(ALLOWED)
    for name, allowed in ALLOWED.items():
        below = order[order.index(name) + 1 :]
        assert {other.split(".")[0] for other in allowed} <= set(below)


@each_file([file for file in FILES if not file.match(ABOVE_ALL)])
def test_imports_follow_the_table(file: Path) -> None:
    allowed = {room(file), *ANYONE, *ALLOWED[room(file)]}
    for name in inside(file):
        first, *rest = name.split(".")
        assert first in allowed or ".".join([first, *rest[:1]]) in allowed, name


@each_file([file for file in FILES if room(file) not in KNOWS_LIGHTNING])
def test_below_the_modules_nobody_knows_lightning(file: Path) -> None:
    assert not {name.split(".")[0] for name, _ in imports(file)} & LIGHTNING


@each_file([file for file in FILES if room(file) == "algorithm"])
def test_the_algorithm_is_pure_torch(file: Path) -> None:
    others = {name.split(".")[0] for name, _ in imports(file)}
    assert others <= PURE | STANDARD_LIBRARY | {PACKAGE}


@each_file([file for file in FILES if not any(map(file.match, (ABOVE_ALL, *BY_THEMSELVES)))])
def test_heavy_packages_load_where_they_are_needed(file: Path) -> None:
    """So that ``--help`` is quick."""
    at_once = {name for name, at_once in imports(file) if at_once}
    assert not {name.split(".")[0] for name in at_once} & HEAVY
    for other in BY_THEMSELVES:
        assert f"{PACKAGE}.{other.removesuffix('.py').replace('/', '.')}" not in at_once

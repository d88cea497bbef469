"""Who may import whom, which docs/architecture.md draws; and how large files may be."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import detox_lightning

ROOT = Path(detox_lightning.__file__).parent
PACKAGE = detox_lightning.__name__
FILES = [file for file in sorted(ROOT.rglob("*.py")) if file.parent != ROOT or file.stem[0] != "_"]

# It names types of other rooms for mypy alone: nothing of them is imported when it runs.
FOR_MYPY = ROOT / "protocols.py"
MOST_LINES, MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 26_472, 300, 60

ANYONE = {"arguments", "errors", "lazy_imports", "protocols", "redaction", "seeding"}
# Each room, and what it may import besides itself and ANYONE: rooms, or single modules of one.
# A room stands above all that it may import.
ALLOWED: dict[str, set[str]] = {
    "cli": {"callbacks", "compare", "data", "models", "modules", "runs", "stages"},
    "modules": {"ppo", "stages"},
    "compat": {"ppo", "batches", "rollout", "models", "algorithm"},
    "ppo": {"stages", "batches", "evaluation", "rollout", "rewards", "models", "algorithm"},
    "callbacks": {
        "runs",
        "stages",
        "data.identity_rows",
        "report",
        "evaluation",
        "rollout",
        "rewards",
        "models",
    },
    "compare": {"data", "report", "evaluation", "models", "runs"},
    "stages": {"runs", "batches", "evaluation", "rollout", "rewards", "models", "algorithm"},
    "data": {"batches", "models.loading", "demo"},
    "report": {"evaluation", "rewards.words"},
    "evaluation": {"batches", "rollout", "rewards", "models", "algorithm"},
    "rollout": {"batches", "rewards", "models", "algorithm"},
    "rewards": {"models"},
    "models": {"algorithm", "demo"},
    "algorithm": set(),
    "demo": set(),
    "runs": set(),
    "batches": set(),
    "arguments": set(),
    "errors": set(),
    "lazy_imports": set(),
    "protocols": set(),
    "redaction": set(),
    "seeding": set(),
}

KNOWS_LIGHTNING = {
    "callbacks",
    "cli",
    "compare",
    "data",
    "modules",
    "ppo",
    "protocols",
    "runs",
    "stages",
}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
PURE = {"torch", "jsonargparse", "typing_extensions"}
HEAVY = {"transformers", "peft", "datasets", "evaluate", "rouge_score"}
HEAVY |= {"scipy", "matplotlib", "jinja2", "pyarrow", "pandas", "tensorboard"}
# Classes of those libraries, whose modules nobody imports at once.
BY_THEMSELVES = ("evaluation/measurement.py", "models/decoding/cache_layers.py", "data/builders.py")
BY_THEMSELVES += ("compat/trl.py", "compat/value_head_models.py")
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


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join((PACKAGE, *parts)).removesuffix(".__init__")


def graph() -> dict[str, set[str]]:
    """Which files import which, wherever in a file and for whatever reason."""
    names = {module_name(file): file for file in ROOT.rglob("*.py")}
    edges: dict[str, set[str]] = {name: set() for name in names}
    for name, file in names.items():
        if file == FOR_MYPY:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                edges[name] |= members & set(names) or {node.module}
    return {name: found & set(names) - {name} for name, found in edges.items()}


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


@each_file([file for file in FILES if file != FOR_MYPY])
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


@each_file([file for file in FILES if not any(map(file.match, BY_THEMSELVES))])
def test_heavy_packages_load_where_they_are_needed(file: Path) -> None:
    """So that ``--help`` is quick."""
    at_once = {name for name, at_once in imports(file) if at_once}
    assert not {name.split(".")[0] for name in at_once} & HEAVY
    for other in BY_THEMSELVES:
        assert f"{PACKAGE}.{other.removesuffix('.py').replace('/', '.')}" not in at_once


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Files that import nothing that is left are taken away until none is left, or a circle is."""
    left = graph()
    while free := {name for name, found in left.items() if not found & set(left)}:
        left = {name: found for name, found in left.items() if name not in free}
    assert not left


def test_no_file_name_is_taken_twice() -> None:
    names = Counter(file.name for file in ROOT.rglob("*.py") if file.name != "__init__.py")
    assert [name for name, times in names.items() if times > 1] == []


def test_files_and_functions_are_short() -> None:
    too_long = []
    for file in sorted(ROOT.rglob("*.py")):
        text = file.read_text(encoding="utf8")
        if (lines := len(text.splitlines())) > MOST_LINES_OF_A_FILE:
            too_long.append(f"{file}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    too_long.append(f"{file}: {node.name} has {length} lines")
    assert too_long == []


def test_the_house_is_small() -> None:
    lines = [len(file.read_text(encoding="utf8").splitlines()) for file in ROOT.rglob("*.py")]
    assert sum(lines) <= MOST_LINES

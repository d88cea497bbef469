"""The documents' code works: blocks are run in order, page by page, in a folder of their own.

- ``python`` is executed, and the results that it shows in comments are compared. With the title
  ``notebook`` it is another library's interface: it must be Python, and no more.
- ``yaml`` has a title ``NAME.yaml, over RECIPE`` and is laid over that recipe.
- ``bash`` that starts this package is run, made small, if all models and data that it amounts to
  are here; else everything is made that it needs, and nothing loaded. Anything else in it must
  be of a kind that is known below.
- ``text`` isn't run; an error in it is what the command before says.
"""

import ast
import importlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

import detox_lightning.data
import detox_lightning.modules
import detox_lightning.rewards
from command import ROOT, IdleCLI, run
from detox_lightning.cli.file_commands import FILE_COMMANDS
from detox_lightning.compare.page_server import PageServer
from detox_lightning.runs import find_checkpoint
from pages import (
    PAGES,
    Block,
    blocks,
    execute,
    is_here,
    is_parallel,
    lines,
    name,
    named,
    too_long,
    words_of,
)

ANYWHERE = "--trainer.accelerator=cpu"
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
FEW = ("--data.num_eval_samples=2",)
SHORT = ("--model.sampling.max_new_tokens=4", "--model.ppo_epochs=1")
SMALL = {
    "fit": (*QUIET, *FEW, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
    "test": (*QUIET, *FEW, "--model.evaluation.samples=2"),
    "validate": (*QUIET, *FEW),
    "predict": QUIET,
    "compare": (*FEW, "--port=0", "--open_browser=false"),
    "export": QUIET,
}
SHARED = (
    "python -m detox_lightning fit --config configs/demo.yaml",
    "python -m detox_lightning test --config configs/demo.yaml --ckpt_path last",
)
PROGRAMS = {"transformers", "peft", "trl", "datasets", "evaluate", "torch", "numpy", "pandas"}
WITH_CODE = [path for path in PAGES if blocks(path)]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def demo_run(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs`` after the two commands that most pages begin with."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PL_GLOBAL_SEED", "0")
        (folder / "configs").symlink_to(ROOT / "configs")
        for line in SHARED:
            start(line)
    return folder / "runs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page's blocks are run; its files can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    for shown in ("configs", "examples"):
        (tmp_path / shown).symlink_to(ROOT / shown)
    return tmp_path


def needed(words: list[str]) -> set[str]:
    """The models and data that words amount to; all is made that they need, nothing loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find_checkpoint, "last_checkpoint", lambda place: Path("last.ckpt"))
        patch.setattr(find_checkpoint, "check_parts", lambda checkpoint, verb: None)
        patch.setattr(find_checkpoint, "resume_last_run", lambda *_: None)
        return named(IdleCLI([*words, ANYWHERE]).config.as_dict())


@cache
def needed_anywhere(words: tuple[str, ...]) -> set[str]:
    """The same of words that pages share."""
    return needed(list(words))


def start(line: str) -> None:
    """Runs a line that starts the package, made small."""
    words = words_of(line)
    assert words is not None
    short = SHORT if words[0] == "fit" and "configs/demo.yaml" in words else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PageServer, "serve", lambda *_: None)  # it would wait for questions
        outcome = run(*words, *SMALL[words[0]], *short)
    assert outcome.code == 0, f"{line}\n{outcome.err}"


def try_command(line: str) -> None:
    """Runs a line that starts the package if what it names is here; else looks at it only."""
    words = words_of(line)
    assert words is not None
    if words[0] in (*FILE_COMMANDS, "judge-sheet"):  # no configuration names what these need
        if Path(words[1]).exists():
            assert run(*words).code == 0, line
        return
    if "--print_config" in words or any(".help" in word for word in words):
        assert run(*words).code == 0, line
        return
    if "configs/demo.yaml" in words and not is_parallel(line):  # it needs nothing else
        here = True
    elif any(word.endswith(".yaml") and "/" not in word for word in words):
        here = all(map(is_here, needed(words)))
    else:
        here = all(map(is_here, needed_anywhere(tuple(words)))) and not is_parallel(line)
    if here and line not in SHARED:
        start(line)


def check_other(line: str) -> None:
    """A line that doesn't start the package is of a kind that is known."""
    program, *rest = line.removeprefix(".venv/bin/").split()
    if program == "pip":
        for extras in re.findall(r"\[([\w,]+)\]", line):
            known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
            assert set(extras.split(",")) <= set(known), line
        assert all((ROOT / file).exists() for file in re.findall(r" -[cr] (\S+)", line)), line
    elif program == "make":
        assert re.search(rf"^{rest[-1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif program in ("python", "python3") and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), line
    elif program == "python" and rest[0] != "-c":
        assert (ROOT / rest[0]).is_file(), line
    elif program == "echo":
        subprocess.run(line, shell=True, check=True)
    else:
        allowed = ("source .venv/bin/activate", "tensorboard --logdir runs")
        assert line in allowed or program == "python", f"{line}: of no kind that is known"


def try_shell(block: Block, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``bash`` block; its last line says ``expected``, if that is an error."""
    *before, last = lines(block)
    if expected.startswith("error: "):
        outcome = run(*(words_of(last) or []))
        assert (outcome.code, outcome.errors) == (2, expected.splitlines())
        last = ""
    for line in filter(None, [*before, last]):
        if words_of(line) is None:
            check_other(line)
            continue
        if piped := line.rpartition(" | ")[0]:
            assert piped.split()[0] in ("cat", "echo"), line
            text = subprocess.run(piped, shell=True, check=True, capture_output=True).stdout
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        try_command(line)


def check_yaml(block: Block, later: list[Block]) -> None:
    """A ``yaml`` block: writes the file of its title, and lays it over the recipe there.

    Not if a command of the page does so anyway.
    """
    file, recipe = re.fullmatch(r"(\w+\.yaml), over (configs/[\w/-]+\.yaml)", block.title).groups()
    Path(file).write_text(block.code, encoding="utf8")
    layers = f"--config {recipe} --config {file}"
    commands = [line for block in later if block.kind == "bash" for line in lines(block)]
    if not any(layers in line for line in commands):
        needed(["fit", *layers.split()])


def check_notebook(block: Block) -> None:
    """A ``python`` block in another library's interface."""
    for node in ast.walk(ast.parse(block.code)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {module.partition(".")[0] for module in modules} <= PROGRAMS


@pytest.mark.slow  # what pages do, the tests of what they are about do, too
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_blocks_of_a_page_work(
    page: Path, folder: Path, demo_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(demo_run, folder / "runs")
    names: dict[str, Any] = {}
    found = blocks(page)
    for place, block in enumerate(found):
        later = found[place + 1 :]
        if block.kind == "bash":
            expected = later[0].code if later and later[0].kind == "text" else ""
            try_shell(block, expected, monkeypatch)
        elif block.kind == "yaml":
            check_yaml(block, later)
        elif block.kind == "python" and block.title == "notebook":
            check_notebook(block)
        elif block.kind == "python":
            if block.title:
                Path(block.title).write_text(block.code, encoding="utf8")
            execute(block.code, names)
        else:
            assert block.kind == "text", f"{name(page)}: a block of the kind {block.kind!r}"
    sys.modules.pop("my_rewards", None)


def test_results_that_are_shown_are_compared() -> None:
    assert execute("x = 2  # two\nx + 1  # 3\n[x]\n# [2]\nx", {}) == 2
    for wrong in ("1 + 1  # 3", "1 + 1\n# 3"):
        with pytest.raises(AssertionError):
            execute(wrong, {})
    shown = [path.stem for path in WITH_CODE if "python" in {block.kind for block in blocks(path)}]
    assert {"ppo", "notebooks", "reward", "evaluation", "export"} <= set(shown)


def test_commands_that_are_not_known_are_refused() -> None:
    for line in ("curl https://example.org", "make nothing", "pip install -e '.[nothing]'"):
        with pytest.raises(AssertionError):
            check_other(line)


def test_no_command_hides_outside_of_a_fence() -> None:
    for path in PAGES:
        rest = re.sub(r"^( *)```.*?^\1```$", "", path.read_text("utf8"), flags=re.M | re.DOTALL)
        assert not re.findall(r"^ {4,}(?:python|make|pip|torchrun) .*", rest, re.MULTILINE), path


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_lines_of_prose_end_in_time(path: Path) -> None:
    assert too_long(path.read_text("utf8")) == []


def test_what_can_not_be_parted_may_be_long() -> None:
    code, link, table = f"`{'a b ' * 30}`", f"text](http://{'x' * 100})", f"| {'cell ' * 30}|"
    assert not too_long("\n".join([code, f"- {code}", link, table, f"```text\n{'a b ' * 30}\n```"]))
    long = ["word " * 20 + "word", f"- {code} and", f"a {link}"]
    assert too_long("\n".join([*long, "word " * 19])) == long


# -- the site


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the documents can be imported from."""
    monkeypatch.syspath_prepend(ROOT / "docs")


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [leaf for entry in entries for leaf in leaves(entry)]


def test_every_page_is_in_the_menu_once() -> None:
    nav = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf8"))["nav"])
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    pages += [f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(nav) == sorted(pages)


def test_the_reference_names_what_there_is() -> None:
    texts = [path.read_text("utf8") for path in (ROOT / "docs" / "api").glob("*.md")]
    asked = [line for text in texts for line in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert len(asked) == len(set(asked)) > 30
    for identifier in asked:
        module, _, thing = identifier.rpartition(".")
        room = importlib.import_module(module)
        assert hasattr(room, thing) or importlib.util.find_spec(identifier), identifier
    for room in (detox_lightning.data, detox_lightning.modules, detox_lightning.rewards):
        assert {f"{room.__name__}.{thing}" for thing in room.__all__} <= set(asked)


@pytest.mark.usefixtures("docs")
def test_the_pictures_are_those_of_the_script() -> None:
    flow = importlib.import_module("flow")
    for stem, picture in (("flow", flow.step()), ("rooms", flow.rooms())):
        assert (flow.PICTURES / f"{stem}.svg").read_text("utf8") == picture


def test_the_search_works_in_a_page_opened_as_a_file() -> None:
    """Else the plugin would load this script from a server."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf8"))
    assert "offline" in config["plugins"]
    [script] = [name for name in config["extra"]["polyfills"] if "iframe-worker" in name]
    assert (ROOT / "docs" / script).is_file()


@pytest.mark.usefixtures("docs")
def test_roles_in_docstrings_read_as_code() -> None:
    hooks = importlib.import_module("hooks")
    html = "<p>see :meth:<code>load</code>, and note: <code>x</code></p>"
    assert hooks.on_page_content(html) == "<p>see <code>load</code>, and note: <code>x</code></p>"


@pytest.mark.usefixtures("docs")
@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img alt="a" src="http://example/x.png">',
    ],
)
def test_a_site_that_needs_a_network_is_refused(text: str, tmp_path: Path) -> None:
    hooks = importlib.import_module("hooks")
    page = tmp_path / "index.html"
    page.write_text('<a href="https://example.org">x</a><script src="x.js"></script>')
    hooks.on_post_build({"site_dir": str(tmp_path)})
    page.write_text(text)
    with pytest.raises(SystemExit, match=r"needs? no network.* index\.html"):
        hooks.on_post_build({"site_dir": str(tmp_path)})

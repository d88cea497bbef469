"""The documents' fenced blocks, and what is done with each kind of command in them."""

import ast
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from command import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]*)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"(?:\.venv/bin/)?python3? -m ")
WIDTH = 100
# what stands in a line of its own kind: blocks, front matter, tables, options of the API's pages
NO_PROSE = re.compile(
    FENCE.pattern + r"|\A---\n.*?^---$|^\|.*?$|^:::.*?$(?:\n +.*?$)*", re.M | re.S
)
PIECE = re.compile(r"(?:`[^`]*`|!\[[^]]*\]\(\S*\)|\S)+")  # no line ends within code or a picture
NAMES = re.compile(r"(policy|adapter|tokenizer|source|predict_source|model|\w+_model)")


class Block(NamedTuple):
    """A fenced block: what kind it says it is, its title, and its text."""

    kind: str
    title: str
    code: str


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), f"{path}: a fence isn't understood"
    return [
        Block(kind, title, textwrap.dedent(code)) for _, kind, title, code in FENCE.findall(text)
    ]


def too_long(text: str) -> list[str]:
    """Lines of prose beyond ``WIDTH`` that could end earlier."""
    prose = NO_PROSE.sub("", text).splitlines()
    return [x for x in prose if len(x) > WIDTH and len(PIECE.findall(x.lstrip("->* "))) > 1]


def lines(block: Block) -> list[str]:
    """A block's command lines, without comments."""
    code = re.sub(r" *\\\n *", " ", block.code)
    found = [line.partition("  #")[0].strip() for line in code.split("\n")]
    return [line for line in found if line and not line.startswith("#")]


def words_of(line: str) -> list[str] | None:
    """What a line tells this package, however it is started; None: it starts another."""
    command = re.sub(
        r"^(torchrun --nproc_per_node \d+|srun --kill-on-bad-exit=1 python|(\w+=\S+ )+python) -m ",
        "",
        line,
    )
    command = PYTHON.sub("", command.rpartition(" | ")[2])
    program, *words = shlex.split(command)
    return words if program == "detox_lightning" else None


def is_parallel(line: str) -> bool:
    """Whether several processes are started by a line."""
    return line.startswith(("torchrun", "srun", "MASTER_ADDR"))


def named(config: Any, key: str = "") -> set[str]:
    """The models and data that a configuration names."""
    if isinstance(config, dict):
        return {found for name, value in config.items() for found in named(value, name)}
    if isinstance(config, list):
        return {found for value in config for found in named(value, key)}
    return {config} if NAMES.fullmatch(key) and isinstance(config, str) else set()


def is_here(thing: str) -> bool:
    """Whether a model or data needs no network: ``demo:…``, a path that is there, a pipe."""
    return thing.startswith("demo:") or thing in ("-", "reference") or Path(thing).exists()


def execute(code: str, names: dict[str, Any]) -> int:
    """Runs Python, and compares what it shows: a comment behind an expression, or below it.

    Args:
        code: The block.
        names: What is known from the blocks before; changed in place.

    Returns:
        How many results were compared.
    """
    written, compared = code.splitlines(), 0
    for node in ast.parse(code).body:
        if not isinstance(node, ast.Expr):
            exec(compile(ast.Module([node], []), "<page>", "exec"), names)
            continue
        value = eval(compile(ast.Expression(node.value), "<page>", "eval"), names)
        behind = written[node.end_lineno - 1][node.end_col_offset :].strip()
        below = written[node.end_lineno] if node.end_lineno < len(written) else ""
        shown = behind or (below if below.startswith("# ") else "")
        if shown:
            assert repr(value) == shown.removeprefix("# "), ast.unparse(node)
            compared += 1
    return compared

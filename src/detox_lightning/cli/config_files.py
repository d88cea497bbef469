"""Reads and checks configuration files and the files that stand for options, with bounds."""

import itertools
import json
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any, TypeVar

import yaml
from jsonargparse import ActionConfigFile, Path, get_loader, set_loader  # type: ignore[attr-defined]

from detox_lightning.cli.recipes import find_recipe, is_file_name
from detox_lightning.errors import InputError
from detox_lightning.redaction import stands_in

MAX_BYTES = 1_000_000  # of a configuration
MAX_VALUES = 100_000  # in a configuration, those behind an alias counted each time
PATIENCE = 3.0  # seconds to wait for a writer of a pipe
HELP = (
    "A configuration file in YAML or JSON; later ones win over earlier ones. configs/NAME is the "
    "package's own if there is no such file here."
)
# jsonargparse's own ways to load YAML and to read files
LOAD_YAML, READ_PATH = get_loader("yaml"), Path.read_text

Content = TypeVar("Content", str, bytes)


class RecipeAction(ActionConfigFile):
    """``--config``, which also takes the name of a recipe; a pipe is read once, here."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Reads the configuration."""
        origin = f"--config={values}"
        try:
            found = find_recipe(values)
            if values == "-":
                found = _bounded(origin, sys.stdin.read(MAX_BYTES + 1))
            elif is_file_name(values) and FilePath(found).is_fifo():
                found = read_text(origin, found)
            super().__call__(parser, cfg, found, option_string)
        except (OSError, ImportError) as error:  # an address that can't be fetched
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{origin}: can't be read ({reason})") from error


def guard_readers() -> None:
    """Makes jsonargparse read files and YAML with the bounds of this module."""
    Path.read_text = _read_option  # type: ignore[method-assign,assignment]
    set_loader("yaml", _load_yaml, (yaml.YAMLError,))


def check_configs(words: Sequence[str]) -> None:
    """Checks the files that a command line names as configurations.

    Each must be YAML or JSON, with each key once. A secret that is hidden in one (``***``) must be
    given after it.

    Args:
        words: The command line's words.

    Raises:
        InputError: If a file is something else, or a secret is not given.
    """
    hidden: dict[str, str] = {}  # by option: the file and line
    for flag, value in flags_with_values(words):
        check_aliases(flag, value)
        if flag not in ("--config", "-c"):
            _unhide(hidden, flag.removeprefix("--").removesuffix("+"))
        elif is_file_name(value) and not FilePath(value).is_fifo():  # a pipe can be read only once
            origin = f"--config={value}"
            for option, node in walk(origin, _compose_file(origin, find_recipe(value))):
                _unhide(hidden, option)
                if isinstance(node, yaml.ScalarNode) and stands_in(str(node.value)):
                    hidden[option] = f"{origin}, line {node.start_mark.line + 1}"
    for option, place in hidden.items():
        raise InputError(
            f"{place}: {option} holds ***, which stands for a secret that was left out; give "
            "the secret after this file, by its flag or in another --config, or delete the line"
        )


def read_text(origin: str, path: str) -> str:
    """Reads a file or a pipe that is no longer than a configuration may be.

    Args:
        origin: The flag or file that messages name.
        path: The file or pipe.

    Raises:
        InputError: If it can't be read, is too long, or is not UTF-8.
    """
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISFIFO(kind):
            content = _read_pipe(path)
        elif stat.S_ISREG(kind):
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
        else:
            found = "folder" if stat.S_ISDIR(kind) else "device, and no file"
            raise InputError(f"{origin}: this is a {found}; give a YAML file")
        return _bounded(origin, content).decode("utf8")
    except OSError as error:
        raise InputError(f"{origin}: can't be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{origin}: byte {error.start} is not UTF-8; give a YAML file, saved as UTF-8"
        ) from error


def check_aliases(origin: str, text: str) -> None:
    """Refuses YAML whose aliases stand for too many values, or contain themselves.

    Args:
        origin: The flag or file that messages name.
        text: Text that may be YAML.

    Raises:
        InputError: If they do.
    """
    if "&" in text and "*" in text:
        # if the text should be YAML and isn't, jsonargparse says so
        with suppress(yaml.YAMLError, RecursionError):
            deque(walk(origin, compose(text)), maxlen=0)


def walk(origin: str, root: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """Yields the lists and scalars of a configuration, each after the list that it is in.

    Args:
        origin: The flag or file that messages name.
        root: The configuration's node.

    Yields:
        The name of an option, and its node.

    Raises:
        InputError: If a mapping has a key twice, of which YAML would take the last, if a node
            contains itself, or if aliases stand for too many values.
    """
    pending: list[tuple[str, yaml.Node, tuple[yaml.Node, ...]]] = [("", root, ())] if root else []
    for number in itertools.count(1):
        if not pending:
            return
        option, node, parents = pending.pop()
        if any(node is parent for parent in parents):
            raise InputError(
                f"{origin}, line {node.start_mark.line + 1}: {option} contains itself; write out "
                "the value that the alias stands for"
            )
        if number > MAX_VALUES:
            raise InputError(
                f"{origin}: its aliases (*) stand for more than {MAX_VALUES} values; write out "
                "those that are needed"
            )
        if not isinstance(node, yaml.MappingNode):
            yield option, node
        inner = _items(origin, option, node)
        pending += [(name, item, (*parents, node)) for name, item in reversed(inner)]


def compose(text: str) -> yaml.Node | None:
    """Parses YAML, or JSON with tabs, into nodes that know their lines.

    Raises:
        yaml.YAMLError: If the text is neither.
    """
    if "\t" in text:
        with suppress(ValueError):
            json.loads(text)
            text = text.replace("\t", " ")  # JSON has no tabs within its texts
    return yaml.compose(text, Loader=yaml.SafeLoader)


def flags_with_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the flags of a command line that have values, and these."""
    for word, following in itertools.pairwise([*words, ""]):
        flag, is_joined, joined = word.partition("=")
        value = joined if is_joined else following
        if flag.startswith("-") and value and not value.startswith("--"):
            yield flag, value


def _compose_file(origin: str, path: str) -> yaml.Node:
    """Parses a configuration file, which must be a mapping."""
    try:
        node = compose(read_text(origin, path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(
            f"{origin}{line}: this is not YAML: {error.problem}; mend the line, or the one before "
            "it"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: this is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InputError(f"{origin}: it is nested too deeply") from error
    if not isinstance(node, yaml.MappingNode):
        kinds = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
        raise InputError(
            f"{origin}: it is {kinds.get(type(node), 'empty')}; give options by name, such as "
            "model: and data:"
        )
    return node


def _unhide(hidden: dict[str, str], option: str) -> None:
    """Removes an option that is set again, and the options within it."""
    for name in [name for name in hidden if f"{name}.".startswith(f"{option}.")]:
        del hidden[name]


def _items(origin: str, option: str, node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    """Returns the options within an option; refuses a key that is there twice."""
    if isinstance(node, yaml.SequenceNode):
        return [(f"{option}.{index}", item) for index, item in enumerate(node.value)]
    items: list[tuple[str, yaml.Node]] = []
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            raise InputError(
                f"{origin}, line {line}: {name} is in line {lines[name]} already; merge the two"
            )
        lines[name] = line
        items.append((option if name == "init_args" else f"{option}.{name}".lstrip("."), value))
    return items


def _bounded(origin: str, content: Content) -> Content:
    """Returns a content that is not too long."""
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{origin}: it is longer than {MAX_BYTES} bytes, so no configuration; give a YAML "
            "file of this package's options"
        )
    return content


def _read_pipe(path: str) -> bytes:
    """Reads a pipe to its end, or a little beyond a configuration's size."""
    content = b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while len(content) <= MAX_BYTES:
            is_ready = select.select([pipe], [], [], PATIENCE)[0]
            part = pipe.read(65536)  # None if a writer has opened the pipe and not yet written
            if part == b"":
                if is_ready:
                    break
                raise TimeoutError("nobody writes into this pipe")
            content += part or b""
    return content


def _load_yaml(text: str) -> Any:
    """Loads YAML, wherever it comes from."""
    check_aliases("YAML that was given", text)
    return LOAD_YAML(text)


def _read_option(path: Path) -> str:
    """Reads the file that stands for an option's value, as in ``--model model.yaml``."""
    file = os.fspath(path)
    if not os.path.exists(file):  # an address
        return str(READ_PATH(path))
    if file.endswith(".py"):
        raise InputError(
            f"{file}: this is Python code, no options; to name a function or class that it "
            f"defines, give {FilePath(file).stem}.NAME: the file without .py, a dot, and the name"
        )
    text = read_text(file, file)
    check_aliases(file, text)
    return text

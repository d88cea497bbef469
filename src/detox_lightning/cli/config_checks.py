"""Checks the configuration files that a command line names, before they are used."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from detox_lightning.cli.config_files import check_aliases, check_size, compose, read_text
from detox_lightning.cli.recipes import find_recipe, is_file_name
from detox_lightning.errors import InputError
from detox_lightning.redaction import stands_in

Hidden = dict[str, tuple[str, int]]  # by option: the file and line in which a secret is hidden


def check_configs(words: Sequence[str]) -> None:
    """Checks the files that a command line names as configurations.

    Each must be YAML or JSON, with each key once. A secret that is hidden in one (``***``) must be
    given after it.

    Args:
        words: The command line's words.

    Raises:
        InputError: If one isn't, or a secret isn't given.
    """
    hidden: Hidden = {}
    for flag, value in _flags_with_values(words):
        check_aliases(flag, value)
        if flag not in ("--config", "-c"):
            _unhide(hidden, flag.removeprefix("--").removesuffix("+"))
        elif is_file_name(value) and not Path(value).is_fifo():  # a pipe is read once, when used
            origin = f"--config={value}"
            _check_node(origin, _compose_file(origin, find_recipe(value)), hidden)
    for option, (origin, line) in hidden.items():
        raise InputError(
            f"{origin}, line {line}: {option} is *** there, for a secret that was not written; "
            "give it after this file, by its flag or in another --config, or delete the line"
        )


def _flags_with_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
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
        kind = "empty" if node is None else kinds[type(node)]
        raise InputError(f"{origin}: it is {kind}; give options by name, such as model: and data:")
    check_size(origin, node)
    return node


def _check_node(
    origin: str,
    node: yaml.Node,
    hidden: Hidden,
    option: str = "",
    parents: tuple[yaml.Node, ...] = (),
) -> None:
    """Refuses cycles, and keys that are there twice, of which YAML would take the last."""
    line = node.start_mark.line + 1
    if any(node is parent for parent in parents):
        raise InputError(
            f"{origin}, line {line}: {option} is within itself; write out what the alias stands for"
        )
    parents = (*parents, node)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in lines:
                raise InputError(
                    f"{origin}, line {line}: {name} is in line {lines[name]} already; put both "
                    "together"
                )
            lines[name] = line
            inner = option if name == "init_args" else f"{option}.{name}".lstrip(".")
            _check_node(origin, value, hidden, inner, parents)
        return
    _unhide(hidden, option)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_node(origin, item, hidden, f"{option}.{index}", parents)
    elif stands_in(str(node.value)):
        hidden[option] = (origin, line)


def _unhide(hidden: Hidden, option: str) -> None:
    """Removes an option that is set anew, and the options within it."""
    for name in [name for name in hidden if f"{name}.".startswith(f"{option}.")]:
        del hidden[name]

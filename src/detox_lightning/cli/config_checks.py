"""Checks the configuration files that a command line names, before they are used."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from detox_lightning.cli.config_files import check_aliases, compose, read_text, walk
from detox_lightning.cli.recipes import find_recipe, is_file_name
from detox_lightning.errors import InputError
from detox_lightning.redaction import stands_in


def check_configs(words: Sequence[str]) -> None:
    """Checks the files that a command line names as configurations.

    Each must be YAML or JSON, with each key once. A secret that is hidden in one (``***``) must be
    given after it.

    Args:
        words: The command line's words.

    Raises:
        InputError: If one isn't, or a secret isn't given.
    """
    hidden: dict[str, str] = {}  # by option: the file and line
    for flag, value in _flags_with_values(words):
        check_aliases(flag, value)
        if flag not in ("--config", "-c"):
            _unhide(hidden, flag.removeprefix("--").removesuffix("+"))
        elif is_file_name(value) and not Path(value).is_fifo():  # a pipe is read once, when used
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
    return node


def _unhide(hidden: dict[str, str], option: str) -> None:
    """Removes an option that is set anew, and the options within it."""
    for name in [name for name in hidden if f"{name}.".startswith(f"{option}.")]:
        del hidden[name]

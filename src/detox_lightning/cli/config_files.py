"""A look at the configuration files that a command line names, before they are used."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from jsonargparse import Namespace

from detox_lightning.cli.recipes import is_file_name, read_file
from detox_lightning.errors import InputError
from detox_lightning.redaction import stands_in

TWICE = "--config={}, line {}: {} is in line {} already; put both together"
ROUND = "--config={}, line {}: {} is within itself; write out what the alias stands for"
MANY = "{}: its aliases (*) stand for more than {} values; write out those that are needed"
MOST = 100_000  # values in a configuration, those that an alias stands for counted each time
STANDING = (
    "--config={}, line {}: {} is *** there, for a secret that was not written; give it after this "
    "file, by its flag or in another --config, or delete the line"
)


def check_configs(words: Sequence[str]) -> None:
    """Looks at the files that a command line names as configurations, before they are used.

    Args:
        words: Of the command line.

    Raises:
        InputError: If one is none, or a secret is missing that nothing after it gives.
    """
    hidden: dict[str, tuple[str, int]] = {}  # by option: the file and line
    for name, value in options(words):
        check_aliases(name, value)
        if name not in ("--config", "-c"):
            forget(hidden, name.removeprefix("--").removesuffix("+"))
        elif is_file_name(value) and not Path(value).is_fifo():  # which can be read once only
            check_config(value, hidden)
    for option, (file, line) in hidden.items():
        raise InputError(STANDING.format(file, line, option))


def check_aliases(origin: str, value: str) -> None:
    """Refuses YAML that is a few words and stands for millions, or for what has no end.

    Args:
        origin: The flag whose value it is, or the file that it is in.
        value: Perhaps YAML.

    Raises:
        InputError: If it does.
    """
    if "&" not in value or "*" not in value:
        return
    try:
        node = compose(value)
    except (yaml.YAMLError, RecursionError):  # which others will say, if it was meant to be YAML
        return
    if node is not None and values_in(node, {}, endless=MOST) > MOST:
        raise InputError(MANY.format(origin, MOST))


def values_in(node: yaml.Node, known: dict[int, int], endless: int = 1) -> int:
    """How many values there are in a node, those behind aliases counted each time.

    Args:
        node: Of YAML.
        known: By a node's id, how many are in it.
        endless: What a node counts that is within itself.
    """
    if id(node) not in known:
        known[id(node)] = endless
        inner = node.value if not isinstance(node, yaml.ScalarNode) else []
        parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        known[id(node)] = 1 + sum(values_in(part, known, endless) for part in parts)
    return known[id(node)]


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The flags of a command line that have values, and these.

    Args:
        words: Of the command line.
    """
    for word, following in itertools.pairwise([*words, ""]):
        name, is_joined, value = word.partition("=")
        given = value if is_joined else following
        if name.startswith("-") and given and not given.startswith("--"):
            yield name, given


def check_config(name: str, hidden: dict[str, tuple[str, int]]) -> None:
    """Makes sure that a file is YAML or JSON, and its keys are options, each there once.

    Args:
        name: As it was given.
        hidden: Takes the options whose secrets were hidden, and loses those that are set here.

    Raises:
        InputError: If there is no such file, or it isn't.
    """
    if os.path.isdir(os.path.expanduser(name)):
        raise InputError(f"--config={name}: this is a folder; give a YAML file")
    try:
        node = compose(read_file(name).decode("utf8"))
    except OSError as error:
        raise InputError(f"--config={name}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"--config={name}: byte {error.start} is not UTF-8; give a YAML file, saved as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(
            f"--config={name}{line}: this is not YAML: {error.problem}; mend the line, or the one "
            "before it"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(
            f"--config={name}: this is not YAML: {str(error).splitlines()[0]}"
        ) from error
    except RecursionError as error:
        raise InputError(f"--config={name}: it is nested too deeply") from error
    if not isinstance(node, yaml.MappingNode):
        kinds = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
        what = "empty" if node is None else kinds[type(node)]
        raise InputError(
            f"--config={name}: it is {what}; give options by name, such as model: and data:"
        )
    if values_in(node, {}) > MOST:
        raise InputError(MANY.format(f"--config={name}", MOST))
    look_through(name, node, hidden)


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text in YAML or JSON.

    Args:
        text: Tabs may be between the parts of JSON, where YAML wants blanks.

    Raises:
        yaml.YAMLError: If it is neither.
    """
    if "\t" in text:
        try:
            json.loads(text)
            text = text.replace("\t", " ")  # there are none within JSON's texts
        except ValueError:
            pass
    return yaml.compose(text, Loader=yaml.SafeLoader)


def look_through(
    file: str,
    node: yaml.Node,
    hidden: dict[str, tuple[str, int]],
    option: str = "",
    around: tuple[yaml.Node, ...] = (),
) -> None:
    """Refuses a key that is there twice, of which YAML would take the last one and say nothing.

    Args:
        file: For the message.
        node: Of the file.
        hidden: See :func:`check_config`.
        option: The node's name on the command line.
        around: The nodes that this one is in.

    Raises:
        InputError: If there is one, or the node is in itself.
    """
    line = node.start_mark.line + 1
    if any(node is one for one in around):
        raise InputError(ROUND.format(file, line, option))
    around = (*around, node)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in lines:
                raise InputError(TWICE.format(file, line, name, lines[name]))
            lines[name] = line
            inner = option if name == "init_args" else f"{option}.{name}".lstrip(".")
            look_through(file, value, hidden, inner, around)
        return
    forget(hidden, option)
    if isinstance(node, yaml.SequenceNode):
        for place, part in enumerate(node.value):
            look_through(file, part, hidden, f"{option}.{place}", around)
    elif stands_in(str(node.value)):
        hidden[option] = (file, line)


def forget(hidden: dict[str, tuple[str, int]], option: str) -> None:
    """Takes out what was hidden in an option that is set anew.

    Args:
        hidden: See :func:`check_config`.
        option: Its name; those within are set anew with it.
    """
    for one in [one for one in hidden if f"{one}.".startswith(f"{option}.")]:
        del hidden[one]


def check_characters(config: Namespace) -> None:
    """Refuses a zero byte, which no name of a file, model or metric can have.

    Args:
        config: Of a verb.

    Raises:
        InputError: If a value has one.
    """
    for flag, value in config.items():
        if isinstance(value, str) and "\0" in value:
            flag = flag.replace(".init_args", "")
            raise InputError(f"--{flag}={value!r}: a zero byte is in it; take it out")

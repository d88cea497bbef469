"""Parses the command line; an error is a line, not a page of jsonargparse's."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from detox_lightning.cli.config_files import HELP, RecipeAction
from detox_lightning.cli.type_words import class_names, describe_type, nearest_option
from detox_lightning.errors import InputError, TrainingError, causes, raised_at
from detox_lightning.redaction import printable

TOO_DEEP = (
    "a value of the command line, or of a file that it names, is nested too deeply; flatten it"
)
MARK = "» "  # before our own words, inside the pages of jsonargparse
MAX_SHOWN = 60  # characters of a value
NUMBER = int | float | None
KEY = re.compile(r'^( *)(?:Type .*)?Parser key "(.+?)":', re.MULTILINE)
UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[\w.]+)' does not accept option"
    r"|Subcommand '\w+' does not accept option|Option) '(?P<key>[\w.+-]+)'"
    r"|unrecognized arguments: --(?P<flag>[\w.+-]+)"
)
VALUES = (
    re.compile(r"^ *Given value: (?!NestedArg|Namespace)(.*)$", re.MULTILINE),
    re.compile(r"Got value: (?!Namespace)(.*)$", re.MULTILINE),
    re.compile(r"Not of type \w+: (.*?) (?:does not conform|not an? \w+$)"),
    re.compile(r": '([^']*)'$", re.MULTILINE),
)


class Parser(LightningArgumentParser):
    """A parser whose errors are a line, also for the options of a class."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Takes no abbreviations of options, at any depth."""
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Adds an option; ``--config`` is one that knows the package's recipes."""
        if "--config" in names:
            options |= {"action": RecipeAction, "help": HELP}
        return super().add_argument(*names, **options)

    def keep_whole_numbers(self) -> None:
        """Lets ``1`` stay whole where a number may be either: 1.0 of all batches is all of them.

        Python gives a union back in the order in which any library has written it last.
        """
        for action in self._actions:
            if getattr(action, "_typehint", None) == NUMBER:
                action._typehint = NUMBER  # type: ignore[attr-defined]

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Parses words; a parser inside another one gets null as the word None, and corrects it.

        Raises:
            InputError: If a value is nested too deeply.
        """
        if args is not None and not self.exit_on_error:
            args = [re.sub(r"=None$", "=null", word) for word in args]
        try:
            return super().parse_args(args, *rest, **options)
        except RecursionError as error:
            raise InputError(TOO_DEEP) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints what is wrong and exits with code 2.

        Raises:
            InputError: If the parser has come upon one.
        """
        for cause in causes(ex):
            if isinstance(cause, InputError):
                raise cause
        parser = getattr(ex, "subcommand_parser", None) or self  # whose option it is
        message = parser._mark_reason(message)
        if not self.exit_on_error:  # a parser inside another one, which will name the whole flag
            super().error(message, ex)
        program = parser.prog.replace("[options] ", "")
        sys.stderr.write(f"error: {printable(summarize(message))}\nSee {program} --help\n")
        self.exit(2)

    def _mark_reason(self, message: str) -> str:
        """Adds a marked line in our own words to a message, where this parser has any for it.

        Args:
            message: A message of jsonargparse; that of an inner parser has the line already.
        """
        if MARK in message:
            return message
        if valueless := re.match(r"argument (?:-\w/)?(--\S+): expected one argument", message):
            words = [word for word in self.args or [] if word.startswith(valueless[1])]
            bare = [word for word in words if "=" not in word]
            return f"{MARK}{(bare or [valueless[1]])[-1][2:]}: its value is missing"
        if stray := re.fullmatch(r"unrecognized arguments: ([^-\s].*)", message, re.DOTALL):
            return f"{MARK}{stray[1]}: this is not an option; options begin with --"
        if unknown := UNKNOWN.search(message):
            key = unknown["flag"] or unknown["key"]
            key = f"{unknown['group']}.{key}" if unknown["group"] else key
            known = [x.dest for x in self._actions if x.option_strings and x.dest != "help"]
            near = nearest_option(key.removesuffix("+"), known)
            advice = f"; did you mean {{}}{near}?" if near else ""
            return f"{MARK}.{key}: there is no such option{advice}"
        keys = list(KEY.finditer(message))
        if not keys or "are required" in message or "Unable to load" in message:
            return message
        key = keys[-1][2]
        hints = [getattr(x, "_typehint", None) or x.type for x in self._actions if x.dest == key]
        if not hints or hints[0] is None:
            return message
        reason = message[keys[-1].end() :]
        return f'Parser key "{key}":\n  {MARK}{_explain_value(hints[0], reason)}'


def instantiate(kind: Any, /, *args: Any, **options: Any) -> Any:
    """Makes an object of a class that the command line names.

    Raises:
        TrainingError: If the constructor raises an error without a message, for which jsonargparse
            has no words.
    """
    try:
        return kind(*args, **options)
    except (InputError, TrainingError):
        raise
    except Exception as error:
        if str(error).strip():
            raise
        raise TrainingError(
            f"{kind.__name__} can't be made: its constructor raised {type(error).__name__} without "
            f"a reason ({raised_at(error)})"
        ) from error


def summarize(message: str) -> str:
    """Reduces a message of jsonargparse to the flag and what is wrong with it.

    Args:
        message: Lines such as ``Parser key "model":``, the deeper the more indented, and perhaps
            one that the parser has marked.
    """
    flag, indent, end = "", -1, 0
    for key in KEY.finditer(message):
        if len(key[1]) > indent:
            flag, indent, end = f"{flag}.{key[2]}".lstrip("."), len(key[1]), key.end()
    prefix = f"--{flag}." if flag else "--"
    if MARK in message:
        reason = message.partition(MARK)[2].splitlines()[0].partition(". Got value: Name")[0]
        if reason.endswith("begin with --"):
            return reason
        return f"--{flag}{reason}".replace("--.", "--").replace("{}", prefix)
    if "Unable to load config" in message:
        return f"--{flag}: must be a mapping of its options, such as {{name: value}}"
    if required := re.search(r"the following arguments are required: ([\w., ]+)", message):
        names = [prefix + name.rpartition(".")[2] for name in required[1].split(", ")]
        return f"{', '.join(names)}: required, and not given"
    if command := re.match(
        r"argument subcommand: invalid choice: '(.*?)' \(choose from (.*)\)", message
    ):
        return f"{command[1]}: there is no such command; give one of {command[2]}".replace("'", "")
    if commands := re.match(r'expected "subcommand" to be one of {(.*)}', message):
        return f"which command? Give one of {commands[1].replace(',', ', ')}"
    lines = [line.strip(" -") for line in message[end:].splitlines()]
    reason = "; ".join(dict.fromkeys(line for line in lines if line))
    return f"--{flag}: {reason}" if flag else reason


def _explain_value(hint: Any, reason: str) -> str:
    """Returns an option's value, found in jsonargparse's reason, and what it must be instead."""
    found = next((match for pattern in VALUES if (match := pattern.search(reason))), None)
    value = "" if found is None else found[1].strip()
    is_shown = found is not None
    advice = f"must be {describe_type(hint)}"
    if "Expected a dot import path" in reason and (names := class_names(hint)):
        if "Expected a path" in reason and not value:
            value = reason.partition("Expected a path but ")[2].partition(" ")[0]
            is_shown = True
        near = nearest_option(value, names)
        if near or not any(word in advice for word in ("number", "true")):
            meant = f"did you mean {near}?" if near else f"give one of {', '.join(names)}"
            advice = f"there is no such class; {meant}"
    if not advice.startswith("there") and (missing := re.search(r"No module named '.*?'", reason)):
        advice = f"it can't be imported: {missing[0][0].lower()}{missing[0][1:]}"
    shown = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…"
    return f"={shown}: {advice}" if is_shown else f": {advice}"

"""Reads the command line: a parser whose errors are a line."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from detox_lightning.cli.recipes import HELP, RecipeAction
from detox_lightning.cli.type_words import class_names, nearest_option, wanted
from detox_lightning.errors import InputError, TrainingError, causes, raised_at, visible
from detox_lightning.redaction import discreet

DEEP = "a value of the command line, or of a file that it names, is nested too deeply; flatten it"
MARK = "» "  # before what is to be said, inside the pages of jsonargparse
NUMBER = int | float | None
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
    """A parser whose errors are a line, not a page; those inside a class's options included."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Wants options in full, at every depth.

        Args:
            args: For LightningArgumentParser.
            kwargs: Likewise.
        """
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Adds an option; ``--config`` is one that knows the package's recipes.

        Args:
            names: For LightningArgumentParser.
            options: Likewise.
        """
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
        """Parses words; inside another parser, whose null arrives as the word None, puts it back.

        Args:
            args: The words; None for the program's own.
            rest: For LightningArgumentParser.
            options: Likewise.

        Raises:
            InputError: If a value is nested too deeply.
        """
        if args is not None and not self.exit_on_error:
            args = [re.sub(r"=None$", "=null", word) for word in args]
        try:
            return super().parse_args(args, *rest, **options)
        except RecursionError as error:
            raise InputError(DEEP) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Says what is wrong and exits with code 2.

        Raises:
            InputError: If that is what the parser has come upon.
        """
        for cause in causes(ex):
            if isinstance(cause, InputError):
                raise cause
        asked = getattr(ex, "subcommand_parser", None) or self  # whose options were looked through
        message = asked.reworded(message)
        if not self.exit_on_error:  # a parser inside another one, which will name the whole flag
            super().error(message, ex)
        program = asked.prog.replace("[options] ", "")
        sys.stderr.write(f"error: {visible(discreet(condense(message)))}\nSee {program} --help\n")
        self.exit(2)

    def reworded(self, message: str) -> str:
        """A message of jsonargparse with a marked line of our own, if this parser can write one.

        Args:
            message: As jsonargparse says it; one of a parser inside this one has the line already.
        """
        if MARK in message:
            return message
        if valueless := re.match(r"argument (?:-\w/)?(--\S+): expected one argument", message):
            words = [word for word in self.args or [] if word.startswith(valueless[1])]
            bare = [word for word in words if "=" not in word]
            return f"{MARK}{(bare or [valueless[1]])[-1][2:]}: its value is missing"
        if stray := re.fullmatch(r"unrecognized arguments: ([^-\s].*)", message, re.DOTALL):
            return f"{MARK}{stray[1]}: this is no option; they begin with --"
        if unknown := UNKNOWN.search(message):
            return self._of_unknown(unknown)
        keys = list(re.finditer(r'^ *Parser key "(.+?)":', message, re.MULTILINE))
        if not keys or "are required" in message or "Unable to load" in message:
            return message
        key = keys[-1][1]
        hint = next(
            (getattr(x, "_typehint", None) or x.type for x in self._actions if x.dest == key), None
        )
        if hint is None:
            return message
        reason = message[keys[-1].end() :]
        return f'Parser key "{key}":\n  {MARK}{what_is_wrong(hint, reason)}'

    def _of_unknown(self, unknown: re.Match[str]) -> str:
        key = unknown["flag"] or unknown["key"]
        key = f"{unknown['group']}.{key}" if unknown["group"] else key
        known = [x.dest for x in self._actions if x.option_strings and x.dest != "help"]
        found = nearest_option(key.removesuffix("+"), known)
        advice = f"; did you mean {{}}{found}?" if found else ""
        return f"{MARK}.{key}: there is no such option{advice}"


def made(kind: Any, /, *args: Any, **options: Any) -> Any:
    """An object that the command line asks for; jsonargparse needs a reason where there is none.

    Args:
        kind: Its class.
        args: For its constructor.
        options: Likewise.

    Raises:
        TrainingError: If the constructor raises something that says nothing.
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


def what_is_wrong(hint: Any, reason: str) -> str:
    """The value of an option, and what it must be instead.

    Args:
        hint: The option's type.
        reason: What jsonargparse says, from which the value is taken.
    """
    found = next((match for pattern in VALUES if (match := pattern.search(reason))), None)
    value = "" if found is None else found[1].strip()
    shown = f"={value if len(value) <= 60 else value[:60] + '…'}" if found else ""
    if "Expected a dot import path" in reason and (names := class_names(hint)):
        if "Expected a path" in reason and not value:
            value = reason.partition("Expected a path but ")[2].partition(" ")[0]
            shown = f"={value}"
        near = nearest_option(value, names)
        if near or not any(word in wanted(hint) for word in ("number", "true")):
            meant = f"; did you mean {near}?" if near else f"; give one of {', '.join(names)}"
            return f"{shown}: there is no such class{meant}"
    if (missing := re.search(r"No module named '.*?'", reason)) is not None:
        return f"{shown}: it can't be imported: {missing[0][0].lower()}{missing[0][1:]}"
    return f"{shown}: must be {wanted(hint)}"


def condense(message: str) -> str:
    """Brings a nested message of jsonargparse down to the flag and what is wrong with it.

    Args:
        message: Lines such as ``Parser key "model":``, the deeper the more indented, and perhaps
            a marked one, which is what is to be said.
    """
    flag, indent, end = "", -1, 0
    for key in re.finditer(r'^( *)(?:Type .*)?Parser key "(.+?)":', message, re.MULTILINE):
        if len(key[1]) > indent:
            flag, indent, end = f"{flag}.{key[2]}".lstrip("."), len(key[1]), key.end()
    if MARK in message:
        said = message.partition(MARK)[2].splitlines()[0].partition(". Got value: Name")[0]
        own = f"--{flag}." if flag else "--"
        stray = said.endswith("begin with --")
        return said if stray else f"--{flag}{said}".replace("--.", "--").replace("{}", own)
    if "Unable to load config" in message:
        return f"--{flag}: must be a mapping of its options, such as {{name: value}}"
    if required := re.search(r"the following arguments are required: ([\w., ]+)", message):
        names = [name.rpartition(".")[2] for name in required[1].split(", ")]
        own = f"--{flag}." if flag else "--"
        return f"{', '.join(own + name for name in names)}: required, and not given"
    if verb := re.match(
        r"argument subcommand: invalid choice: '(.*?)' \(choose from (.*)\)", message
    ):
        return f"{verb[1]}: there is no such command; give one of {verb[2]}".replace("'", "")
    if verbs := re.match(r'expected "subcommand" to be one of {(.*)}', message):
        return f"which command? Give one of {verbs[1].replace(',', ', ')}"
    lines = [line.strip(" -") for line in message[end:].splitlines()]
    reason = "; ".join(dict.fromkeys(line for line in lines if line))
    return f"--{flag}: {reason}" if flag else reason

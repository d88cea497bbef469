"""Parses the command line; an error is one line instead of jsonargparse's page."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.memory import is_oom_error
from torch.optim import Optimizer

from detox_lightning.cli.config_files import HELP, RecipeAction
from detox_lightning.cli.type_words import class_names, describe_type, nearest_option
from detox_lightning.errors import InputError, TrainingError, explain, find_cause, raised_at
from detox_lightning.redaction import printable

TOO_DEEP = (
    "a value of the command line, or of a file that it names, is nested too deeply; flatten it"
)
MARK = "» "  # precedes our own words inside a message of jsonargparse
CLEAR_ERRORS = (ValueError, ImportError, OSError, MisconfigurationException)  # in plain words
# packages of the classes behind sections of options, which no flag names
SECTIONS_FROM = ("detox_lightning.callbacks.", "detox_lightning.runs.")
MAX_SHOWN = 60  # characters of a value
NUMBER = int | float | None
KEY = re.compile(r'^( *)(?:Type .*)?Parser key "(.+?)":', re.MULTILINE)
UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[\w.]+)' does not accept option|Option) '(?P<key>[\w.+-]+)'"
    r"|unrecognized arguments: --(?P<flag>[\w.+-]+)"
)
VALUES = (
    re.compile(r"^ *Given value: (?!NestedArg|Namespace)(.*)$", re.MULTILINE),
    re.compile(r"Got value: (?!Namespace)(.*)$", re.MULTILINE),
    re.compile(r"Not of type \w+: (.*?) (?:does not conform|not an? \w+$)"),
    re.compile(r": '([^']*)'$", re.MULTILINE),
)


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, also for the options of a class.

    jsonargparse makes a parser of this kind for each class that options name. Such inner parsers
    are known by ``exit_on_error`` being false.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Allows no abbreviated options, at any depth."""
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.defaults: Any = None

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Adds an option; the command's ``--config`` also takes the package's recipes.

        A class may have an argument named ``config``, which is an option like any other.
        """
        if options.get("action") is ActionConfigFile:
            options |= {"action": RecipeAction, "help": HELP}
        return super().add_argument(*names, **options)

    def keep_whole_numbers(self) -> None:
        """Keeps ``1`` an integer where a float is allowed, too: 1.0 batches means all of them.

        Python may return a union in the order in which another library has written it.
        """
        for action in self._actions:
            if getattr(action, "_typehint", None) == NUMBER:
                action._typehint = NUMBER  # type: ignore[attr-defined]

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Parses words; an inner parser is handed null as the word None, and corrects it.

        Raises:
            InputError: If a value is nested too deeply.
        """
        if args is not None and not self.exit_on_error:
            args = [re.sub(r"=None$", "=null", word) for word in args]
        try:
            return super().parse_args(args, *rest, **options)
        except RecursionError as error:
            raise InputError(TOO_DEEP) from error

    def get_defaults(self, skip_validation: bool = False, **options: Any) -> Any:
        """Returns the options' defaults; those of an inner parser never change and are kept."""
        if self.exit_on_error:
            return super().get_defaults(skip_validation, **options)
        if self.defaults is None:
            self.defaults = super().get_defaults(skip_validation, **options)
        return self.defaults.clone()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints what is wrong and exits with code 2.

        Raises:
            InputError: If that is the reason.
        """
        if mistake := find_cause(ex, InputError):
            raise mistake
        message = self._mark_reason(message)
        if not self.exit_on_error:  # the parser around this one will name the whole flag
            super().error(message, ex)
        sys.stderr.write(f"error: {printable(summarize(message))}\nSee {self.prog} --help\n")
        self.exit(2)

    def _mark_reason(self, message: str) -> str:
        """Adds a marked line in our own words to a message that this parser can explain.

        Args:
            message: A message of jsonargparse; an inner parser may have added the line already.
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


class Instantiator:
    """Makes objects of the classes that the command line names.

    Where an option has several types, such as the logger's, jsonargparse tries all of them, and
    hides why a constructor has failed.

    Attributes:
        refusal: Why the newest object that couldn't be made couldn't.
    """

    refusal: InputError | TrainingError | None = None

    def __call__(self, kind: Any, /, *args: Any, **options: Any) -> Any:
        """Makes an object.

        Raises:
            InputError: If the constructor refuses its options, or lacks a library.
            TrainingError: If the constructor raises an error without a message.
        """
        try:
            return kind(*args, **options)
        except (InputError, TrainingError) as error:
            self.refusal = error
            raise
        except Exception as error:
            if is_oom_error(error) or issubclass(kind, Optimizer):  # the stage names the option
                raise
            self.refusal = _explain_constructor(kind, error)
            raise self.refusal from error


def _explain_constructor(kind: type, error: Exception) -> InputError | TrainingError:
    """Returns an error that names a class and why it can't be made."""
    reason = explain(error) or " ".join(str(error).split())
    if not reason:
        return TrainingError(
            f"{kind.__name__} can't be made: its constructor raised {type(error).__name__} without "
            f"a reason ({raised_at(error)})"
        )
    if not isinstance(error, CLEAR_ERRORS):
        reason = f"{type(error).__name__}: {reason} ({raised_at(error)})"
    if kind.__module__.startswith(SECTIONS_FROM):
        return InputError(reason)
    return InputError(f"{kind.__name__} can't be made: {reason}")


def summarize(message: str) -> str:
    """Reduces a message of jsonargparse to the flag and what is wrong with it.

    Args:
        message: Lines such as ``Parser key "model":``, indented by their depth, and perhaps a
            line that the parser has marked.
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
    lines = [line.strip(" -") for line in message[end:].splitlines()]
    reason = "; ".join(dict.fromkeys(line for line in lines if line))
    return f"--{flag}: {reason}" if flag else reason


def _explain_value(hint: Any, reason: str) -> str:
    """Returns an option's value, found in jsonargparse's reason, and what it must be instead."""
    found = next((match for pattern in VALUES if (match := pattern.search(reason))), None)
    value = found[1].strip() if found else None
    advice = f"must be {describe_type(hint)}"
    if "Expected a dot import path" in reason and (names := class_names(hint)):
        if "Expected a path" in reason and not value:
            value = reason.partition("Expected a path but ")[2].partition(" ")[0]
        near = nearest_option(value or "", names)
        if near or not any(word in advice for word in ("number", "true")):
            meant = f"did you mean {near}?" if near else f"give one of {', '.join(names)}"
            advice = f"there is no such class; {meant}"
    if not advice.startswith("there") and (missing := re.search(r"No module named '.*?'", reason)):
        advice = f"it can't be imported: {missing[0][0].lower()}{missing[0][1:]}"
    if value is None:
        return f": {advice}"
    return f"={value if len(value) <= MAX_SHOWN else f'{value[:MAX_SHOWN]}…'}: {advice}"

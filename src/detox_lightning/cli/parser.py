"""Parses the command line; an error is one line instead of jsonargparse's page."""

import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.memory import is_oom_error
from torch.optim import Optimizer

from detox_lightning.cli.brief_help import class_of, class_options
from detox_lightning.cli.config_files import HELP, RecipeAction
from detox_lightning.cli.type_words import class_names, describe_type, nearest, same_last_part
from detox_lightning.cli.verbs import PROGRAM, is_yaml
from detox_lightning.errors import InputError, TrainingError, explain, find_cause, raised_at
from detox_lightning.redaction import printable

TOO_DEEP = (
    "a value of the command line, or of a file that it names, is nested too deeply; flatten it"
)
NO_OPTION = ": this is not an option"
DEFAULTS = {"allow_abbrev": False, "usage": SUPPRESS, "prog": PROGRAM}
MARK = "» "  # precedes our own words inside a message of jsonargparse
MAX_SHOWN = 60  # characters of a value
NUMBER = int | float | None
KEY = re.compile(r'^( *)(?:Type .*)?Parser key "(.+?)":', re.MULTILINE)
UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[\w.]+)' does not accept option|Option) '(?P<key>[\w.+-]+)'"
    r"|unrecognized arguments: --(?P<flag>[\w.+-]+)"
)
ITSELF = re.compile(r"^(--([\w.]+): there is no such option); did you mean --\2\?$")
VALUELESS, DASHED = re.compile("--[^=]+"), re.compile("-[^-hc]")  # -h and -c are options
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

    brief: Callable[[], str] | None = None  # gives a help in place of that of all options

    def __init__(self, *args: Any, **kwargs: Any):
        """Allows no abbreviated options, at any depth."""
        super().__init__(*args, **{**DEFAULTS, **kwargs})
        self.defaults: Any = None

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Adds an option; ``--config`` also takes the package's recipes."""
        if options.get("action") is ActionConfigFile:  # a class may have an argument "config"
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
        elif args is not None:
            args = _with_dashes(args)
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

    def format_help(self, *formatter: Any) -> str:
        """Returns the help."""
        return super().format_help(*formatter) if self.brief is None else self.brief()

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
        if stray := re.fullmatch(r"unrecognized arguments: (?!--)(.+)", message, re.DOTALL):
            if is_yaml(file := stray[1].split()[0]):
                return f"{MARK}{file}{NO_OPTION}; give a configuration as --config {file}"
            return f"{MARK}{stray[1]}{NO_OPTION}; options begin with --"
        if unknown := UNKNOWN.search(message):
            key = unknown["flag"] or unknown["key"]
            key = f"{unknown['group']}.{key}" if unknown["group"] else key
            known = [x.dest for x in self._actions if x.option_strings and x.dest != "help"]
            return f"{MARK}.{key}: there is no such option{self._advice(key, known)}"
        keys = list(KEY.finditer(message))
        if not keys or "are required" in message or "Unable to load" in message:
            return message
        key = keys[-1][2]
        hints = [getattr(x, "_typehint", None) or x.type for x in self._actions if x.dest == key]
        if not hints or hints[0] is None:
            return message
        reason = message[keys[-1].end() :]
        return f'Parser key "{key}":\n  {MARK}{_explain_value(hints[0], reason)}'

    def _advice(self, key: str, known: Sequence[str]) -> str:
        """Returns the end of a message that an option isn't known; ``{}`` is this parser's flag."""
        key = key.removesuffix("+")
        if near := nearest(key, known):
            return f"; did you mean {{}}{near}?"
        outer = known if self.exit_on_error else ()
        near = same_last_part(key, [*class_options(type(self)), *outer])
        return f"; did you mean --{near}?" if near else ""


class Instantiator:
    """Makes objects of the classes that the command line names.

    Attributes:
        refusal: Why the newest one that can't be made can't. jsonargparse hides that where an
            option has several types, such as the logger's.
    """

    refusal: InputError | TrainingError | None = None

    def __call__(self, kind: Any, /, *args: Any, **options: Any) -> Any:
        """Makes an object; an error names the class and why its constructor has failed."""
        try:
            return kind(*args, **options)
        except (InputError, TrainingError) as error:
            self.refusal = error
            raise
        except Exception as error:
            if is_oom_error(error) or issubclass(kind, Optimizer):  # the stage names the option
                raise
            reason, name = explain(error) or " ".join(str(error).split()), kind.__name__
            if not reason:
                self.refusal = TrainingError(
                    f"{name} can't be made: its constructor raised {type(error).__name__} without "
                    f"a reason ({raised_at(error)})"
                )
            elif type(error).__name__ == "MisconfigurationException":  # it names the option
                self.refusal = InputError(reason)
            else:
                is_clear = isinstance(error, ValueError | ImportError | OSError)
                reason = reason if is_clear else f"{type(error).__name__}: {reason}"
                self.refusal = InputError(f"{name} can't be made: {reason}")
            raise self.refusal from error


def _with_dashes(words: Sequence[str]) -> list[str]:
    """Joins flags and values such as -1e-3, most of which argparse would take for options."""
    joined: list[str] = []
    for word in words:
        is_value = joined and VALUELESS.fullmatch(joined[-1]) and DASHED.match(word)
        joined.append(f"{joined.pop()}={word}" if is_value else word)
    return joined


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
        if NO_OPTION in reason:
            return reason
        line = f"--{flag}{reason}".replace("--.", "--").replace("{}", prefix)
        return ITSELF.sub(lambda it: f"{it[1]}; name its class before it: {class_of(it[2])}", line)
    if "Unable to load config" in message:
        return f"--{flag}: must be a mapping of its options, such as {{name: value}}"
    if required := re.search(r"the following arguments are required: ([\w., ]+)", message):
        names = [prefix + name.rpartition(".")[2] for name in required[1].split(", ")]
        advice = "" if flag else "; give --config configs/demo.yaml, or a run: --ckpt_path last"
        return f"{', '.join(names)}: required, and not given{advice}"
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
        near = nearest(value or "", names)
        if near or not any(word in advice for word in ("number", "true")):
            listed = ", ".join(names) + "".join(advice.partition(", or the path")[1:])
            meant = f"did you mean {near}?" if near else f"give one of {listed}"
            advice = f"there is no such class; {meant}"
    if not advice.startswith("there") and (missing := re.search(r"No module named '.*?'", reason)):
        advice = f"it can't be imported: {missing[0][0].lower()}{missing[0][1:]}"
    if " is abstract" in reason:
        advice = "it is abstract, since it lacks methods that its base asks for; write them"
    if value is None:
        return f": {advice}"
    return f"={value if len(value) <= MAX_SHOWN else f'{value[:MAX_SHOWN]}…'}: {advice}"

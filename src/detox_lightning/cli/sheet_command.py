"""The command ``judge-sheet``, which needs neither a model nor a trainer."""

from collections.abc import Sequence

from detox_lightning.cli.command import DetoxCLI
from detox_lightning.cli.parser import Parser
from detox_lightning.cli.verbs import COMMANDS, PROGRAM
from detox_lightning.compare.judge_sheet import judge_sheet


def run_judge_sheet(words: Sequence[str]) -> None:
    """Parses the words after the command's name, and reads the sheets."""
    name = "judge-sheet"
    usage = f"{PROGRAM} {name} FILE [FILE ...] [--key FILE]"
    parser = Parser(usage=usage, prog=f"{PROGRAM} {name}", description=COMMANDS[name])
    parser.add_argument("files", nargs="*", help="The sheets, one of each person.")
    parser.add_function_arguments(judge_sheet, as_group=False, skip={"files"})
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    options = vars(parser.parse_args(list(words)))
    DetoxCLI.debug = options.pop("debug")
    judge_sheet(**options)

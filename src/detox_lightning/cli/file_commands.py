"""The commands ``rescore`` and ``audit``, which need a file, but neither a run nor a trainer."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jsonargparse.typing import PositiveInt

from detox_lightning.cli.command import DetoxCLI
from detox_lightning.cli.flag_checks import PATH_OPTIONS
from detox_lightning.cli.parser import Parser
from detox_lightning.cli.process import few_tries, isolated, quieten_transformers
from detox_lightning.cli.verbs import COMMANDS, PROGRAM
from detox_lightning.compare.audit import audit
from detox_lightning.compare.rescore import rescore

FILE_COMMANDS: dict[str, tuple[Callable[..., Any], str]] = {
    "rescore": (rescore, "The .jsonl file with the texts."),
    "audit": (audit, "The table of sentences, or the table or .txt file of templates."),
}


def run_on_file(verb: str, words: Sequence[str]) -> None:
    """Parses the words after the command's name, and has the texts of the file judged."""
    function, meaning = FILE_COMMANDS[verb]
    usage = f"{PROGRAM} {verb} FILE --toxicity_model MODEL [--flag VALUE ...]"
    parser = Parser(usage=usage, prog=f"{PROGRAM} {verb}", description=COMMANDS[verb])
    parser.add_argument("file", nargs="?", help=meaning)
    parser.add_function_arguments(function, as_group=False, skip={"file"})
    parser.add_argument("--threads", type=PositiveInt | None, help="CPU threads; null: all cores.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    options = vars(parser.parse_args(list(words)))
    for name in options.keys() & PATH_OPTIONS:
        options[name] = options[name] and os.path.expanduser(options[name])
    DetoxCLI.debug = options.pop("debug")
    with isolated(), few_tries():
        quieten_transformers()
        if threads := options.pop("threads"):
            torch.set_num_threads(threads)
        function(**options)

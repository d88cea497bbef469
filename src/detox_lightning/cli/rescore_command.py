"""The command ``rescore``, which needs neither a run nor a trainer."""

from collections.abc import Sequence

import torch
from jsonargparse.typing import PositiveInt

from detox_lightning.cli.command import DetoxCLI
from detox_lightning.cli.parser import Parser
from detox_lightning.cli.process import few_tries, isolated, quieten_transformers
from detox_lightning.cli.verbs import COMMANDS, PROGRAM
from detox_lightning.compare.rescore import rescore


def run_rescore(words: Sequence[str]) -> None:
    """Parses the words after the command's name, and scores the texts of the file."""
    usage = f"{PROGRAM} rescore FILE --toxicity_model MODEL [--flag VALUE ...]"
    parser = Parser(usage=usage, prog=f"{PROGRAM} rescore", description=COMMANDS["rescore"])
    parser.add_argument("file", nargs="?", help="The .jsonl file with the texts.")
    parser.add_function_arguments(rescore, as_group=False, skip={"file"})
    parser.add_argument("--threads", type=PositiveInt | None, help="CPU threads; null: all cores.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    options = vars(parser.parse_args(list(words)))
    DetoxCLI.debug = options.pop("debug")
    with isolated(), few_tries():
        quieten_transformers()
        if threads := options.pop("threads"):
            torch.set_num_threads(threads)
        rescore(**options)

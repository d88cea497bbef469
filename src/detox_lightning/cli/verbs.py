"""The commands, and the help that lists them; nothing heavy is imported for it."""

from argparse import ArgumentParser, HelpFormatter
from collections.abc import Mapping, Sequence
from functools import partial

from detox_lightning import __version__
from detox_lightning.cli.recipes import recipes
from detox_lightning.errors import InputError

PROGRAM = "python -m detox_lightning"
DESCRIPTION = (
    "Trains language models to write less toxic text by reinforcement learning (PPO), and the "
    "models that this starts from. Each command takes one or several configurations: fit --config "
    "FILE [--flag VALUE ...]. A flag wins over the files and flags before it."
)
COMMANDS = {
    "fit": "Train: supervised, a reward's classifier, or PPO, whichever --model names.",
    "validate": "Measure a model on the validation rows.",
    "test": "Compare a model with the one before training on the test rows, and write a report.",
    "predict": "Answer prompts, or classify texts, and write the results to a JSONL file.",
    "compare": "Open a page: type a text, and see the answers before and after training.",
    "rescore": "Score stored texts with another classifier: rescore FILE --toxicity_model MODEL.",
    "audit": "Count false alarms by group of people: audit FILE --toxicity_model MODEL.",
    "judge-sheet": "Read what people wrote on sheets of a test: judge-sheet FILE [FILE ...].",
    "export": "Write a checkpoint's model as Hugging Face folders, even while its run goes on.",
}


def choose_command(words: Sequence[str]) -> str:
    """Returns the command that a command line begins with; prints help or version if asked.

    Args:
        words: The command line's words.

    Raises:
        InputError: If it doesn't begin with a command.
        SystemExit: After the help, or the version.
    """
    first = words[0] if words else ""
    if first in COMMANDS:
        return first
    if first in ("-h", "--help", "--version"):
        print(f"detox_lightning {__version__}" if first == "--version" else _overview())
        raise SystemExit
    known = ", ".join(COMMANDS)
    if not first:
        raise InputError(f"which command? Give one of {known}; {PROGRAM} --help explains them")
    later = next((word for word in words if word in COMMANDS), None)
    if is_yaml(first) or (later and first.startswith("-")):
        flag = f"--config {first}" if is_yaml(first) else first.partition("=")[0]
        raise InputError(f"{first}: the command comes first: {PROGRAM} {later or 'fit'} {flag} …")
    if first.startswith("-"):
        raise InputError(f"{first}: options come after the command; begin with one of {known}")
    raise InputError(f"{first}: there is no such command; give one of {known}")


def is_yaml(word: str) -> bool:
    """Returns whether a word looks like the name of a configuration file."""
    return not word.startswith("-") and word.endswith((".yaml", ".yml", ".json"))


def help_page(usage: str, text: str, sections: Mapping[str, Mapping[str, str]]) -> str:
    """Returns a help text; its sections have names, and what each of them means."""
    layout = partial(HelpFormatter, max_help_position=34)
    parser = ArgumentParser(usage=usage, description=text, add_help=False, formatter_class=layout)
    for title, rows in sections.items():
        group = parser.add_argument_group(title)
        for name, meaning in rows.items():
            group.add_argument(name.strip("-"), metavar=name, help=meaning.replace("%", "%%"))
    return parser.format_help()


def _overview() -> str:
    """Returns the help that lists commands and recipes, each recipe with its first sentence."""
    first_lines = {name: file.open(encoding="utf8").readline() for name, file in recipes().items()}
    found = {name: line.strip("# .\n").split(". ")[0] for name, line in first_lines.items()}
    sections = {
        "commands (COMMAND --help lists the flags)": {
            **COMMANDS,
            "--version": "Show the version.",
        },
        "recipes, as FILE (overlays: after another one, by a --config of their own)": found,
    }
    return help_page(f"{PROGRAM} COMMAND --config FILE [--flag VALUE ...]", DESCRIPTION, sections)

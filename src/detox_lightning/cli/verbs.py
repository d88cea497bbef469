"""The commands, and the help that lists them; nothing heavy is imported for it."""

from argparse import ArgumentParser
from collections.abc import Sequence

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
    "export": "Write a checkpoint's model as Hugging Face folders, even while its run goes on.",
}


def choose_command(words: Sequence[str]) -> str:
    """Returns the command that a command line begins with; prints the help if it asks for that.

    Args:
        words: The command line's words.

    Raises:
        InputError: If it doesn't begin with a command.
        SystemExit: After the help.
    """
    first = words[0] if words else ""
    if first in COMMANDS:
        return first
    if first in ("-h", "--help"):
        usage = f"{PROGRAM} COMMAND --config FILE [--flag VALUE ...]"
        parser = ArgumentParser(PROGRAM, usage=usage, description=DESCRIPTION)
        commands = parser.add_subparsers(
            title="commands", description="COMMAND --help lists the flags.", metavar="COMMAND"
        )
        for name, description in COMMANDS.items():
            commands.add_parser(name, help=description)
        parser.print_help()
        raise SystemExit
    known = ", ".join(COMMANDS)
    if not first:
        raise InputError(f"which command? Give one of {known}")
    if first.startswith("-"):
        raise InputError(f"{first}: options come after the command; begin with one of {known}")
    raise InputError(f"{first}: there is no such command; give one of {known}")

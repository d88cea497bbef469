"""The table of bad input: what is wrong, and the very line that says so."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from command import run


class Place(NamedTuple):
    """What a case may spoil: a small recipe that works, and what it names."""

    folder: Path
    recipe: str
    policy: str
    classifier: str

    def fill(self, text: str) -> str:
        """Puts paths in place of ``{folder}``, ``{policy}`` and ``{classifier}``."""
        for name in ("folder", "policy", "classifier"):
            text = text.replace(f"{{{name}}}", str(getattr(self, name)))
        return text


class Case(NamedTuple):
    """One way to be wrong.

    Attributes:
        name: What is wrong, as a test's name.
        flags: Words after ``VERB --config RECIPE``.
        message: All that follows ``error: ``, the words in full.
        spoil: Makes the file or folder that is wrong.
        verb: The command.
        code: 2 for a mistake of the user's, 1 for what fails later.
    """

    name: str
    flags: tuple[str, ...]
    message: str
    spoil: Callable[[Place], object] = lambda place: None
    verb: str = "fit"
    code: int = 2


def check(case: Case, place: Place) -> None:
    """Runs the command, which must end with this code, this line, and no traceback."""
    case.spoil(place)
    outcome = run(case.verb, "--config", place.recipe, *map(place.fill, case.flags))
    said = [line.removeprefix("error: ") for line in outcome.errors]
    assert (said, outcome.code) == ([place.fill(case.message)], case.code), outcome.err
    assert "Traceback" not in outcome.err

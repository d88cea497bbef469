"""The classes of a classifier, and the labels in data that mean them."""

from dataclasses import dataclass
from typing import Any

from detox_lightning.errors import InputError

MOST_LABELS_SHOWN = 10  # in a message
YAML_WORDS = {True: "true, yes or on", False: "false, no or off", None: "null"}


@dataclass(frozen=True)
class LabelMap:
    """Turns the labels found in data into class indices, by name.

    Args:
        names: Class names in the order of their indices.
        renamed: Label in the data → class name.
        flag: Flag that gave the names, for messages.

    Raises:
        InputError: If there are duplicates or fewer than two names, or a label is renamed to
            something else.
    """

    names: tuple[str, ...]
    renamed: dict[str, str]
    flag: str

    def __post_init__(self) -> None:
        if len(set(self.names)) < max(2, len(self.names)):
            raise InputError(f"{self}: give two or more different names")
        if stray := sorted(set(self.renamed.values()) - set(self.names)):
            raise InputError(
                f"--data.label_map={self.renamed}: {', '.join(stray)} not in {self}; map to these"
            )

    def __str__(self) -> str:
        """The flag with its value."""
        return f"{self.flag}={list(self.names)}"

    def index(self, label: str | int | None) -> int | None:
        """Returns the index of a label's class; None if it has none. A number is no name."""
        if label is None:  # a missing value, although a class may be named "None"
            return None
        name = self.renamed.get(str(label), str(label))
        return self.names.index(name) if name in self.names else None

    def check(self, labels: list[Any], source: str) -> None:
        """Raises InputError, which lists the labels, unless each is None or has a class."""
        found = {label for label in labels if label is not None}
        unknown = sorted(str(label) for label in found if self.index(label) is None)
        if unknown:
            raise InputError(
                f"{source}: it has the labels {_listed(sorted(map(str, found)))}, but "
                f"{_listed(unknown)} {'is' if len(unknown) == 1 else 'are'} none of {self}; say "
                "what they mean with --data.label_map, such as "
                f"{{{unknown[0]}: {self.names[0]}}}"
            )

    def missing(self, indices: set[int]) -> str:
        """Returns the names of the classes that have none of these indices, as a list in text."""
        return _listed([name for i, name in enumerate(self.names) if i not in indices])


def names_by_label(label_map: dict[Any, str]) -> dict[str, str]:
    """Returns a map from labels to class names, in which YAML's numbers are text.

    Args:
        label_map: Label in the data → class name.

    Raises:
        InputError: If YAML did not read a label as text or a number, such as ``no`` and ``null``.
    """
    for label, name in label_map.items():
        if label is None or isinstance(label, bool):
            words = YAML_WORDS[label]
            raise InputError(
                f"--data.label_map={label_map}: YAML takes {words} for no name; put it in quotes, "
                f"such as {{'{words.split(', ')[0]}': {name}}}"
            )
    return {str(label): str(name) for label, name in label_map.items()}


def _listed(labels: list[str]) -> str:
    more = len(labels) - MOST_LABELS_SHOWN
    return ", ".join(labels[:MOST_LABELS_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""What is secret, and stays out of files, logs and messages: tokens, keys, passwords.

They are told by their names (``api_key``, ``--logger.token``), or by standing before the @ of an
address.
"""

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "***"
NAME = r"(?:token|key|password|passwd|secret|credentials)"
SECRET = re.compile(rf"(?:^|[._-]){NAME}$", re.IGNORECASE)
FLAG = re.compile(rf"^--[\w.-]*{NAME}$", re.IGNORECASE)
NAMED = re.compile(rf"({NAME}[\"']?\s*[:=]\s*[\"']?)[^\"',}}\s]+", re.IGNORECASE)
ADDRESS = re.compile(r"(://)[^/@\s]+(?=@)")


def without_secrets(value: Any) -> Any:
    """A copy of plain values in which :data:`HIDDEN` stands for texts that are secret.

    Args:
        value: Texts, numbers, and dictionaries and lists of such.
    """
    if isinstance(value, dict):
        return {
            key: HIDDEN
            if isinstance(inner, str) and SECRET.search(str(key))
            else without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(without_secrets(inner) for inner in value)
    return without_passwords(value) if isinstance(value, str) else value


def without_passwords(text: str) -> str:
    """A text whose addresses don't tell who asks: ``https://***@host/file``."""
    return ADDRESS.sub(rf"\1{HIDDEN}", text)


def discreet_words(words: Sequence[str]) -> list[str]:
    """A command line's words without what is secret.

    Args:
        words: Flags, values, and JSON or YAML within.
    """
    shown = [without_passwords(NAMED.sub(rf"\1{HIDDEN}", word)) for word in words]
    for place, word in enumerate(words[:-1]):
        if FLAG.search(word):
            shown[place + 1] = HIDDEN
    return shown

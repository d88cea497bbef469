"""Keeps secrets out of files, logs and messages: tokens, keys, passwords.

A secret is recognized by its name (``api_key``, ``--logger.token``), or by its position in an
address: before the @ or in the query.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from detox_lightning.errors import visible

HIDDEN = "***"
_LABELS = "label_map"  # an option whose keys come from the data
_NAME = (
    rf"(?<![^\W_])(?<!{_LABELS}\.)(?<!pad_|eos_|bos_|unk_|sep_|cls_)(?<!mask_)"
    r"(?:token|(?:api)?key|password|passwd|secret|credentials|auth|authorization)"
)
SECRET = re.compile(rf"{_NAME}\+?$", re.IGNORECASE)
_QUERY = rf"([?&][\w.-]*(?:{_NAME}|(?<![^\W_])sig(?:nature)?)=)[^&#\s\"']+"
_IN_ADDRESSES = (
    re.compile(r"(://)[^/\s\"']+(?=@)"),
    re.compile(_QUERY, re.IGNORECASE),
    re.compile(r"\b(Bearer\s+)[^\s\"',}]+"),
)
_FLAG = re.compile(rf"(--[\w.-]*{_NAME}\+?=)(?:.*?(?=: )|.*)", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?P<kept>{_LABELS}[\"']?\s*[:=]\s*{{[^}}]*}})"
    rf"|(?P<name>(?<![\w.-])(?:[\w.-]*{_NAME}=|[\"'][\w.-]*{_NAME}[\"']\s*:\s*"
    rf"|(?:\w[\w-]*)?{_NAME}\s*:\s*))"
    r"(?:\"[^\"]*\"|'[^']*'|\[[^\]]*\]"
    r"|(?:Bearer\s+|Basic\s+)?[^\"',}&\s]+?(?=[:;]?(?:[\"',}&\s]|$)))",
    re.IGNORECASE,
)
_STANDS_IN = re.compile(r"^\*{3}$|://\*{3}@|(?:=|Bearer\s)\*{3}(?:$|[&#\s\"'])")


def without_secrets(value: Any, name: str = "") -> Any:
    """Returns a copy of plain values with :data:`HIDDEN` in place of secrets.

    Args:
        value: Texts, numbers, and dictionaries and lists of them.
        name: The value's own name.
    """
    if name == _LABELS:
        return value
    if SECRET.search(name):
        return _hide(value)
    if isinstance(value, dict):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_secrets(inner) for inner in value)
    return without_passwords(value) if isinstance(value, str) else value


def without_passwords(text: str) -> str:
    """Hides credentials in a text's addresses: ``https://***@host/file?token=***``."""
    for pattern in _IN_ADDRESSES:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def redact(text: str) -> str:
    """Hides secrets in a message such as ``--x.token=…`` or ``token: …``.

    Args:
        text: One or several lines.
    """
    text = _FLAG.sub(rf"\1{HIDDEN}", without_passwords(text))
    return _NAMED.sub(lambda match: match["kept"] or f"{match['name']}{HIDDEN}", text)


def printable(text: str) -> str:
    """Prepares a message for a terminal: hides secrets and escapes control characters."""
    return visible(redact(text))


def redact_words(words: Sequence[str]) -> list[str]:
    """Hides secrets in a command line's words.

    Args:
        words: Flags, values, and JSON or YAML within.
    """
    shown: list[str] = []
    flag = ""  # the flag whose value is the next word
    for word in words:
        name, joined, value = word.partition("=") if word.startswith("-") else (flag, "", word)
        if word.startswith("-") and not joined:
            shown.append(word)
        else:
            shown.append((name + joined if joined else "") + _redact_value(name, value))
        flag = word if word.startswith("--") and not joined else ""
    return shown


def stands_in(text: str) -> bool:
    """Returns whether a value only stands for a hidden secret."""
    return _STANDS_IN.search(text) is not None


def _hide(value: Any) -> Any:
    """Hides all values within a secret, except those that reveal nothing."""
    if isinstance(value, dict):
        return {key: inner if key == "class_path" else _hide(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_hide(inner) for inner in value)
    return value if value is None or isinstance(value, bool) else HIDDEN


def _redact_value(flag: str, text: str) -> str:
    if SECRET.search(flag):
        return HIDDEN
    try:
        tree = yaml.safe_load(text)
        hidden = without_secrets(tree, flag.rpartition(".")[2])
    except (yaml.YAMLError, ValueError, RecursionError):
        return redact(text)
    if not isinstance(tree, dict | list):
        return redact(text)
    return text if hidden == tree else json.dumps(hidden, ensure_ascii=False, default=str)

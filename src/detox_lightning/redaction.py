"""What is secret, and stays out of files, logs and messages: tokens, keys, passwords.

They are told by their names (``api_key``, ``--logger.token``), or by standing before the @ or in
the query of an address.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

HIDDEN = "***"
LABELS = "label_map"  # what is in there is named by the data
NAME = (
    rf"(?<![^\W_])(?<!{LABELS}\.)(?<!pad_|eos_|bos_|unk_|sep_|cls_)(?<!mask_)"
    r"(?:token|(?:api)?key|password|passwd|secret|credentials|auth|authorization)"
)
SECRET = re.compile(rf"{NAME}\+?$", re.IGNORECASE)
ADDRESS = re.compile(r"(://)[^/\s\"']+(?=@)")
QUERY = re.compile(rf"([?&][\w.-]*(?:{NAME}|(?<![^\W_])sig(?:nature)?)=)[^&#\s\"']+", re.IGNORECASE)
BEARER = re.compile(r"\b(Bearer\s+)[^\s\"',}]+")
FLAG = re.compile(rf"(--[\w.-]*{NAME}\+?=)(?:.*?(?=: )|.*)", re.IGNORECASE)
NAMED = re.compile(
    rf"(?P<kept>{LABELS}[\"']?\s*[:=]\s*{{[^}}]*}})"
    rf"|(?P<name>(?<![\w.-])(?:[\w.-]*{NAME}=|[\"'][\w.-]*{NAME}[\"']\s*:\s*"
    rf"|(?:\w[\w-]*)?{NAME}\s*:\s*))"
    r"(?:\"[^\"]*\"|'[^']*'|\[[^\]]*\]"
    r"|(?:Bearer\s+|Basic\s+)?[^\"',}&\s]+?(?=[:;]?(?:[\"',}&\s]|$)))",
    re.IGNORECASE,
)
STANDS_IN = re.compile(r"^\*{3}$|://\*{3}@|(?:=|Bearer\s)\*{3}(?:$|[&#\s\"'])")


def without_secrets(value: Any) -> Any:
    """A copy of plain values in which :data:`HIDDEN` stands for what is secret.

    Args:
        value: Texts, numbers, and dictionaries and lists of such.
    """
    if isinstance(value, dict):
        return {key: _named(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_secrets(inner) for inner in value)
    return without_passwords(value) if isinstance(value, str) else value


def _named(name: str, value: Any) -> Any:
    if name == LABELS:
        return value
    return _hidden(value) if SECRET.search(name) else without_secrets(value)


def _hidden(value: Any) -> Any:
    """All that is within something secret is so, but for what tells nothing."""
    if isinstance(value, dict):
        return {
            key: inner if key == "class_path" else _hidden(inner) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_hidden(inner) for inner in value)
    return value if value is None or isinstance(value, bool) else HIDDEN


def without_passwords(text: str) -> str:
    """A text whose addresses don't tell who asks: ``https://***@host/file?token=***``."""
    for pattern in (ADDRESS, QUERY, BEARER):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def discreet(text: str) -> str:
    """A message without what is secret: every text that is shown goes through here.

    Args:
        text: One or several lines, in which ``--x.token=…``, ``token: …`` and the like may stand.
    """
    text = FLAG.sub(rf"\1{HIDDEN}", without_passwords(text))
    return NAMED.sub(lambda match: match["kept"] or f"{match['name']}{HIDDEN}", text)


def discreet_words(words: Sequence[str]) -> list[str]:
    """A command line's words without what is secret.

    Args:
        words: Flags, values, and JSON or YAML within.
    """
    shown: list[str] = []
    flag = ""  # whose value is the next word
    for word in words:
        name, joined, value = word.partition("=") if word.startswith("-") else (flag, "", word)
        if word.startswith("-") and not joined:
            shown.append(word)
        else:
            shown.append((name + joined if joined else "") + _discreet_value(name, value))
        flag = word if word.startswith("--") and not joined else ""
    return shown


def _discreet_value(flag: str, text: str) -> str:
    if SECRET.search(flag):
        return HIDDEN
    try:
        tree = yaml.safe_load(text)
        name = flag.rpartition(".")[2]
        hidden = _named(name, tree)
    except (yaml.YAMLError, ValueError, RecursionError):
        return discreet(text)
    if not isinstance(tree, dict | list):
        return discreet(text)
    return text if hidden == tree else json.dumps(hidden, ensure_ascii=False, default=str)


def stands_in(text: str) -> bool:
    """Whether a value is one that was hidden here, and can't be used."""
    return STANDS_IN.search(text) is not None

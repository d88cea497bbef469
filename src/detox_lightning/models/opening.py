"""Opens what a name stands for, and explains in one line why it can't be opened.

A name is a hub id, a local folder, or ``demo:NAME``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from detox_lightning.demo import locate
from detox_lightning.errors import InputError, explain

Loaded = TypeVar("Loaded")
# files of a folder in Hugging Face format that hold one JSON object each
JSON_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "adapter_config.json"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
FILES_OF = {
    "config of": "config.json",
    "model": "config.json and the weights",
    "tokenizer": "tokenizer.json and tokenizer_config.json",
    "adapter": "adapter_config.json and the weights",
}
CLEAR_ERRORS = (OSError, ValueError, ImportError)  # their texts need no name of a class
FORMAT = "Give a folder in Hugging Face format with safetensors"
QUIETLY = {
    f"_raise_exceptions_for_{case}": False
    for case in ("gated_repo", "missing_entries", "connection_errors")
}


class Unusable(Exception):
    """Files can't be used. The message gives the fault and its remedy, without the model's name."""


def open_by_name(what: str, name: str, loader: Callable[..., Loaded], **options: Any) -> Loaded:
    """Calls a ``from_pretrained`` and turns its failures into one line.

    Whatever a library raises because a file is not what it expects is a mistake in that file, not
    in the program. Only running out of memory is neither.

    Args:
        what: Kind of thing that is opened, for the message.
        name: Hub id, local folder or ``demo:NAME``.
        loader: The ``from_pretrained`` to call.
        options: Its keyword arguments; those that are None are left out.
    """
    options = {key: value for key, value in options.items() if value is not None}
    try:
        return loader(locate(name), **options)
    except InputError:
        raise
    except Exception as error:
        if runs_out_of_memory(error):
            raise
        reason = str(error)
        if not isinstance(error, Unusable):
            reason = explain_failure(what, name, error, options.get("revision"))
        raise InputError(f"can't open the {what} {name!r}: {reason}") from error


def runs_out_of_memory(error: Exception) -> bool:
    """Whether an exception is about the machine's memory, not about what is opened."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def is_local(name: str) -> bool:
    """Whether a model's name is a folder of this machine, not a hub id."""
    return Path(locate(name)).exists()


def find_file(located: str, name: str, **options: Any) -> Path | None:
    """Returns a file of a folder, or of a hub id (from the cache); None if it doesn't exist.

    ``options`` are ``revision`` and the like, for transformers' ``cached_file``.
    """
    from transformers.utils.hub import cached_file

    found = cached_file(located, name, **QUIETLY, **options)
    return Path(found) if found else None


def find_object(located: str, name: str, **options: Any) -> dict[str, Any] | None:
    """Returns the JSON object in a file; see :func:`find_file`.

    Raises:
        Unusable: If the file holds something else.
    """
    file = find_file(located, name, **options)
    if file is None:
        return None
    again = "copy or download it again"
    try:
        content = json.loads(file.read_text(encoding="utf8"))
    except RecursionError as error:
        raise Unusable(f"{file.name} is nested too deeply; {again}") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise Unusable(f"{file.name} is not JSON ({error}); {again}") from error
    if not isinstance(content, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(content), "a number")
        raise Unusable(f"{file.name} holds {kind}, where a JSON object is expected; {again}")
    return content


def explain_failure(what: str, name: str, error: Exception, revision: str | None) -> str:
    """Returns the reason why a library can't open ``name``, and the remedy."""
    if "trust_remote_code" in str(error):
        return (
            "it brings code of its own, which runs only if you ask for it. If you have read it and "
            "trust it, give --model.weights.trust_remote_code=true"
        )
    place = Path(locate(name)).expanduser()
    if place.is_file():
        return f"this is a file. {FORMAT}"
    if place.is_dir() and not any(place.iterdir()):
        return "the folder is empty. Give one in Hugging Face format with safetensors"
    try:
        for file in JSON_FILES:
            find_object(str(place), file, revision=revision, local_files_only=True)
    except Unusable as fault:
        return str(fault)
    except (OSError, ValueError):  # a name that the hub can't have
        pass
    if type(error).__name__ == "SafetensorError":
        return f"its weights are damaged ({error}); copy or download them again"
    reason = _as_line(error)
    if "attn_implementation" in reason:
        return f"--model.weights.attn_implementation: {reason}"
    reason = reason.rstrip(".")
    if not isinstance(error, CLEAR_ERRORS):
        files = FILES_OF.get(what, "its files")
        return f"{files} can't be used: {reason}. Mend that, or copy the folder again"
    if place.is_dir():
        return f"{reason}. {FORMAT}"
    if name.startswith((".", "/", "~")) or (name.count("/") != 1 and "/" in name):
        return "there is no such folder; check the path"
    if any(sign in reason for sign in ("connect", "offline", "adapter_config.json' at")):
        return (
            "there is no such folder here, nor a copy in the cache, and the hub can't be reached. "
            f"Where it can be: hf download {name} --local-dir FOLDER; then give that folder here. "
            "HF_HUB_OFFLINE=1 reads the cache alone, without waiting for the hub"
        )
    return (
        f"there is no such folder here, and as a hub id: {reason}. Give a local folder in Hugging "
        "Face format with safetensors, or a hub id that this machine can reach"
    )


def _as_line(error: Exception) -> str:
    """Returns an exception's text in one line, with its class where the text may not be enough."""
    if text := explain(error):
        return text
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if text and (isinstance(error, CLEAR_ERRORS) or text != lines[0]):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

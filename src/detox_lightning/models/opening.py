"""Opens what a name stands for, and says in one line why it can't be opened.

A name is a hub id, a local folder, or ``demo:NAME``.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from detox_lightning.demo import locate
from detox_lightning.errors import InputError, explain

Loaded = TypeVar("Loaded")
# files of a folder in Hugging Face format that hold one JSON object each
OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
# what is read, where what is opened isn't called so itself
READ = {
    "config of": "config.json",
    "model": "config.json and the weights",
    "tokenizer": "tokenizer.json and tokenizer_config.json",
    "adapter": "adapter_config.json and the weights",
}
SAYS_ENOUGH = (OSError, ValueError, ImportError)
FORMAT = "Give a folder in Hugging Face format with safetensors"


class Unusable(Exception):
    """Files that can't be used: what is wrong with them, and the remedy, without the name."""


def open_by_name(what: str, name: str, loader: Callable[..., Loaded], **options: Any) -> Loaded:
    """Calls a ``from_pretrained`` and turns its failures into one line.

    Whatever a library raises where a file is not what it expects is a mistake in that file, not in
    the program; only memory that runs out is nobody's.

    Args:
        what: What is opened, for the message.
        name: Hub id, local folder or ``demo:NAME``.
        loader: The ``from_pretrained`` to call.
        options: Its keyword arguments; those that are None are left out.

    Raises:
        InputError: If ``loader`` can't open ``name``.
    """
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return loader(locate(name), **given)
    except InputError:
        raise
    except Unusable as error:
        raise InputError(f"can't open the {what} {name!r}: {error}") from error
    except Exception as error:
        if runs_out_of_memory(error):
            raise
        reason = _why(what, name, error, given.get("revision"))
        raise InputError(f"can't open the {what} {name!r}: {reason}") from error


def runs_out_of_memory(error: Exception) -> bool:
    """Whether an exception tells of the machine, rather than of what is opened on it.

    Args:
        error: Any.
    """
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "allocate memory" in str(error)


def is_local(name: str) -> bool:
    """Whether a model is a folder of this machine, rather than the hub's.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
    """
    return Path(locate(name)).exists()


def read_object(file: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        file: Its path.

    Raises:
        Unusable: If it doesn't.
    """
    try:
        content = json.loads(file.read_text(encoding="utf8"))
    except RecursionError as error:
        raise Unusable(f"{file.name} is nested too deeply; copy or download it again") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise Unusable(f"{file.name} is not JSON ({error}); copy or download it again") from error
    if not isinstance(content, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(content), "a number")
        raise Unusable(
            f"{file.name} holds {kind}, where a JSON object is expected; copy or download it again"
        )
    return content


def _why(what: str, name: str, error: Exception, revision: str | None) -> str:
    """What is wrong with a model, and what to do about it."""
    place = Path(locate(name)).expanduser()
    reason = _reason(error)
    if "trust_remote_code" in str(error):
        return (
            "it brings code of its own, which is not run unasked. If you have read it and trust "
            "it, give --model.weights.trust_remote_code=true"
        )
    if place.is_file():
        return f"this is a file. {FORMAT}"
    if place.is_dir() and not any(place.iterdir()):
        return "the folder is empty. Give one in Hugging Face format with safetensors"
    folder = place if place.is_dir() else _snapshot(name, revision)
    if folder is not None:
        for fault in _broken(folder):
            return fault
    if type(error).__name__ == "SafetensorError":
        return f"its weights are torn ({error}); copy or download them again"
    if "attn_implementation" in reason:
        return f"--model.weights.attn_implementation: {reason}"
    if not isinstance(error, SAYS_ENOUGH):
        read = READ.get(what, "its files")
        return f"{read} can't be used: {reason.rstrip('.')}. Mend that, or copy the folder again"
    if place.is_dir():
        return f"{reason.rstrip('.')}. {FORMAT}"
    return _not_reached(name, reason)


def _reason(error: Exception) -> str:
    """What an exception says, in one line, with its kind where the text may not tell enough."""
    if said := explain(error):
        return said
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if text and (isinstance(error, SAYS_ENOUGH) or text != lines[0]):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _not_reached(name: str, reason: str) -> str:
    """What is said of a name that is no folder."""
    if name.startswith((".", "/", "~")) or (name.count("/") != 1 and "/" in name):
        return "there is no such folder; check the path"
    if any(sign in reason for sign in ("connect", "offline", "adapter_config.json' at")):
        return (
            "there is no such folder here, nor a copy in the cache, and the hub can't be reached. "
            f"Where it can be: hf download {name} --local-dir FOLDER; then give that folder here"
        )
    return (
        f"there is no such folder here, and as a hub id: {reason.rstrip('.')}. Give a local folder "
        "in Hugging Face format with safetensors, or a hub id that this machine can reach"
    )


def _snapshot(name: str, revision: str | None) -> Path | None:
    """Where the cache has files of a hub id; None: nowhere."""
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # a name that the hub can't have
        for file in OBJECTS:
            if isinstance(found := try_to_load_from_cache(name, file, revision=revision), str):
                return Path(found).parent
    return None


def _broken(folder: Path) -> Iterator[str]:
    """What is wrong with the JSON files of a folder."""
    for file in (folder / name for name in OBJECTS):
        if file.is_file():
            try:
                read_object(file)
            except Unusable as error:
                yield str(error)

"""The files that hold a model's weights: safetensors, or else pickled tensors and nothing more."""

import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from detox_lightning.models.opening import (
    FORMAT,
    Unusable,
    find_file,
    read_object,
    runs_out_of_memory,
)

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
SAFE_ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
CODE_FORMATS = ("TorchScript", ".tar format")  # torch opens such files only with their code
UNKNOWN_NAME = "PyTorch's, under a name that transformers doesn't open"
OTHER_FORMATS = {
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "*.onnx": "ONNX's",
    "*.gguf": "llama.cpp's",
    **dict.fromkeys(("*.pt", "*.pth", "*.ckpt"), UNKNOWN_NAME),
}


def find_weights(
    located: str, revision: str | None = None, names: tuple[str, str] = (SAFE, PICKLED)
) -> list[Path]:
    """Returns the files of a model's or adapter's weights; those that are pickled are checked.

    Raises:
        OSError: If a hub id has no weights, or can't be reached.
        Unusable: If a folder has no weights, or pickles that hold something else than tensors.
    """
    from transformers.utils.hub import cached_file

    safe, pickled = names
    if files := _whole_or_shards(located, safe, revision):
        return files
    if files := _whole_or_shards(located, pickled, revision):
        for file in files:
            check_pickled(file)
        warn_once(
            f"{located}: its weights are pickled ({pickled}); they were opened as tensors alone. "
            "save_pretrained of transformers and peft writes safetensors"
        )
        return files
    if not Path(located).is_dir():
        return [Path(str(cached_file(located, safe, revision=revision)))]  # raises, and says why
    for pattern, library in OTHER_FORMATS.items():
        if (found := sorted(Path(located).glob(pattern))) and safe == SAFE:
            raise Unusable(
                f"its weights are {library} ({found[0].name}). Give the model in PyTorch's format, "
                f"with {SAFE}: save_pretrained of transformers writes it"
            )
    raise Unusable(f"it has neither {safe} nor {pickled}. {FORMAT}")


def check_adapter(located: str, revision: str | None = None) -> None:
    """Checks an adapter's weights before peft opens them; see :func:`find_weights`."""
    find_weights(located, revision, (SAFE_ADAPTER, PICKLED_ADAPTER))


def _whole_or_shards(located: str, name: str, revision: str | None) -> list[Path]:
    if whole := find_file(located, name, revision):
        return [whole]
    index = find_file(located, f"{name}.index.json", revision)
    if index is None:
        return []
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise Unusable(f"{index.name} doesn't say which file holds which weights (weight_map)")
    files = []
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise Unusable(f"{index.name} names {shard!r}, which is no file beside it")
        file = find_file(located, shard, revision)
        if file is None:
            raise Unusable(f"{index.name} names {shard}, which isn't there; copy or download it")
        files.append(file)
    return files


def check_pickled(file: Path) -> None:
    """Refuses a pickled file of anything but tensors by name; runs no code of it."""
    try:
        mapped: dict[str, Any] = {"mmap": True} if is_zipfile(file) else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the lines below say more
            content = torch.load(file, map_location="cpu", weights_only=True, **mapped)
    except Exception as error:  # a torn file fails in many ways
        if isinstance(error, PermissionError) or runs_out_of_memory(error):
            raise
        is_code = any(kind in str(error) for kind in CODE_FORMATS)
        if isinstance(error, pickle.UnpicklingError) or is_code:
            raise Unusable(
                f"its weights are pickled ({file.name}), and not tensors alone, or torn. Opening "
                "such a file can run code. Write them as safetensors: from_pretrained, then "
                "save_pretrained, of transformers does"
            ) from error
        raise Unusable(
            f"its weights are torn ({file.name}); copy or download them again"
        ) from error
    entries = list(content.items()) if isinstance(content, dict) else []
    if isinstance(dict(entries).get("state_dict"), dict):
        raise Unusable(
            f"{file.name} is a checkpoint of a training, with its weights under 'state_dict'. Put "
            "these into a model of transformers (load_state_dict), and save_pretrained writes it"
        )
    are_tensors = (isinstance(k, str) and isinstance(x, torch.Tensor) for k, x in entries)
    if not entries or not all(are_tensors):
        raise Unusable(
            f"{file.name} doesn't hold tensors by name and nothing else. Save a model's state_dict "
            "there, or, with save_pretrained, safetensors"
        )


@cache
def warn_once(message: str) -> None:
    """Warns once, on the first rank."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank():
        return
    warnings.warn(message, stacklevel=2)


@contextmanager
def without_conversion() -> Iterator[None]:
    """Keeps transformers from asking the hub to convert pickled weights, and waiting for it."""
    before = os.environ.get(NO_CONVERSION)
    os.environ[NO_CONVERSION] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_CONVERSION]
        else:
            os.environ[NO_CONVERSION] = before

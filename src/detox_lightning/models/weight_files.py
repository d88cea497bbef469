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

from detox_lightning.models.opening import FORMAT, Unusable, read_object, runs_out_of_memory

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
SAFE_ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
INDEX = ".index.json"
NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
QUIETLY = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
OLD = ("TorchScript", ".tar format")  # kinds of file that torch opens only with their code
OTHERS = {
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "*.onnx": "ONNX's",
    "*.gguf": "llama.cpp's",
    "*.pt": "PyTorch's, under a name that transformers doesn't open",
    "*.pth": "PyTorch's, under a name that transformers doesn't open",
    "*.ckpt": "PyTorch's, under a name that transformers doesn't open",
}


def find_weights(located: str, revision: str | None = None) -> list[Path]:
    """The files of a model's weights: safetensors, or else pickled tensors, which are looked at.

    Args:
        located: Folder or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        OSError: If a hub id has none, or can't be reached.
        Unusable: If a folder has none, or pickles that hold something else.
    """
    for name in (SAFE, PICKLED):
        files = _whole_or_in_shards(located, name, revision)
        if files and name == PICKLED:
            for file in files:
                check_pickled(file)
            tell_of_pickle(located, PICKLED)
        if files:
            return files
    if Path(located).is_dir():
        raise Unusable(_no_weights(Path(located)))
    return [_fetch(located, SAFE, revision)]


def _whole_or_in_shards(located: str, name: str, revision: str | None) -> list[Path]:
    if whole := find_file(located, name, revision):
        return [whole]
    index = find_file(located, name + INDEX, revision)
    files: list[Path] = []
    for shard in _shards(index) if index else []:
        file = find_file(located, shard, revision)
        if file is None:
            raise Unusable(f"{name + INDEX} names {shard}, which isn't there; copy or download it")
        files.append(file)
    return files


def check_adapter(located: str, revision: str | None = None) -> None:
    """Looks at an adapter's weights before peft opens them.

    Args:
        located: Folder or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        Unusable: If its folder has none, or a pickle that holds more than tensors.
    """
    if find_file(located, SAFE_ADAPTER, revision):
        return
    if pickled := find_file(located, PICKLED_ADAPTER, revision):
        check_pickled(pickled)
        tell_of_pickle(located, PICKLED_ADAPTER)
    elif Path(located).is_dir():
        raise Unusable(f"it has neither {SAFE_ADAPTER} nor {PICKLED_ADAPTER}. {FORMAT}")
    else:
        _fetch(located, SAFE_ADAPTER, revision)


def find_file(located: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a folder, or of a hub id by way of the cache; None: it isn't there.

    Args:
        located: Folder or hub id.
        name: Of the file.
        revision: Branch, tag or commit of a hub id.
    """
    from transformers.utils.hub import cached_file

    if Path(located).is_dir():
        return file if (file := Path(located, name)).is_file() else None
    found = cached_file(located, name, revision=revision, **QUIETLY)
    return Path(found) if found else None


def _fetch(located: str, name: str, revision: str | None) -> Path:
    """A file of a hub id, which the library says why it doesn't have."""
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(located, name, revision=revision)))


def check_pickled(file: Path) -> None:
    """Makes sure that a pickled file holds tensors by name and nothing else; runs no code of it.

    Args:
        file: Its path.

    Raises:
        Unusable: If it doesn't.
    """
    try:
        mapped: dict[str, Any] = {"mmap": True} if is_zipfile(file) else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the line below says more
            content = torch.load(file, map_location="cpu", weights_only=True, **mapped)
    except Exception as error:  # a torn file fails in many ways
        if isinstance(error, PermissionError) or runs_out_of_memory(error):
            raise
        if isinstance(error, pickle.UnpicklingError) or any(kind in str(error) for kind in OLD):
            raise Unusable(
                f"its weights are pickled ({file.name}), and not tensors alone, or torn. Opening "
                "such a file can run code. Write them as safetensors: from_pretrained, then "
                "save_pretrained, of transformers does"
            ) from error
        raise Unusable(
            f"its weights are torn ({file.name}); copy or download them again"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        raise Unusable(
            f"{file.name} is a checkpoint of a training, with its weights under 'state_dict'. Put "
            "these into a model of transformers (load_state_dict), and save_pretrained writes it"
        )
    tensors = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )
    if not tensors or not content:
        raise Unusable(
            f"{file.name} doesn't hold tensors by name and nothing else. Save a model's state_dict "
            "there, or, with save_pretrained, safetensors"
        )


def tell_of_pickle(located: str, file: str) -> None:
    """Says, in the first process, that weights are no safetensors.

    Args:
        located: Folder or hub id.
        file: Of the weights.
    """
    tell(
        f"{located}: its weights are pickled ({file}); they were opened as tensors alone. "
        "save_pretrained of transformers and peft writes safetensors"
    )


@cache
def tell(message: str) -> None:
    """Warns once, in the first process.

    Args:
        message: What to say.
    """
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


def _shards(index: Path) -> list[str]:
    """The files beside an index that it names."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise Unusable(f"{index.name} doesn't say which file holds which weights (weight_map)")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name:
            raise Unusable(f"{index.name} names {name!r}, which is no file beside it")
    return names


def _no_weights(folder: Path) -> str:
    """What is said of a folder without weights that could be opened."""
    for pattern, whose in OTHERS.items():
        if found := sorted(folder.glob(pattern)):
            return (
                f"its weights are {whose} ({found[0].name}). Give the model in PyTorch's format, "
                f"with {SAFE}: save_pretrained of transformers writes it"
            )
    return f"it has neither {SAFE} nor {PICKLED}. {FORMAT}"

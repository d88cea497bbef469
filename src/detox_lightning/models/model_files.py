"""Checks of a model's files before a library reads them: configs, and the files of its weights.

Weights are safetensors, or else pickled tensors and nothing more.
"""

import warnings
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from detox_lightning.models.opening import (
    FORMAT,
    Unusable,
    find_file,
    find_object,
    runs_out_of_memory,
)

HASH_LENGTH, HASHED_AT_ONCE = 16, 2**20  # hexadecimal digits, bytes
TOKEN_FIELDS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
OTHER_FORMATS = {
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "*.onnx": "ONNX's",
    "*.gguf": "llama.cpp's",
    **dict.fromkeys(
        ("*.pt", "*.pth", "*.ckpt"), "PyTorch's, under a name that transformers doesn't open"
    ),
}


def check_configs(located: str, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Refuses configs that transformers would misread, ignore, or take code of the hub from.

    Returns:
        The content of ``config.json``; empty if there is none.
    """
    config = find_object(located, "config.json", revision=revision) or {}
    names = config.get("architectures")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not is_list:
        raise Unusable(
            f"its config.json says architectures: {names!r}, where a list of classes is expected, "
            "such as [T5ForConditionalGeneration]; correct it"
        )
    if not trust_remote_code:
        _refuse_kernels(config)
    generation = find_object(located, "generation_config.json", revision=revision) or {}
    for field in TOKEN_FIELDS:
        value = generation.get(field)
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(token) is int for token in ids):
            raise Unusable(
                f"its generation_config.json says {field}: {value!r}, where a token's number is "
                "expected; correct it"
            )
    return config


def _refuse_kernels(config: dict[str, Any]) -> None:
    """Refuses a config that takes its attention, or another part, from code on the hub."""
    waiting = list(config.items())
    while waiting:
        field, value = waiting.pop()
        names_code = "_implementation" in field
        if isinstance(value, dict):
            waiting += [(field if names_code else name, one) for name, one in value.items()]
        elif names_code and "/" in str(value):
            raise Unusable(
                f"its config.json names code on the hub ({field}: {value}), which runs only "
                "if you ask for it. Remove the field, or, if you trust it, give "
                "--model.weights.trust_remote_code=true"
            )


def find_weights(
    located: str, revision: str | None = None, names: tuple[str, str] = WEIGHTS
) -> list[Path]:
    """Returns the files of a model's or adapter's weights, after a check of those that are pickled.

    Raises:
        OSError: If a hub id has no weights, or can't be reached.
        Unusable: If a folder has no weights, pickles that hold something else than tensors, or an
            adapter instead of a model.
    """
    from transformers.utils.hub import cached_file

    safe, pickled = names
    if names == WEIGHTS and find_file(located, "adapter_config.json", revision=revision):
        raise Unusable(  # transformers would open its base, and hide what that lacks
            "it is an adapter, and a whole model is wanted here. Merge it into its base "
            "(merge_and_unload of peft, then save_pretrained), and give that folder"
        )
    if files := _whole_or_shards(located, safe, revision):
        return files
    if files := _whole_or_shards(located, pickled, revision):
        for file in files:
            _check_pickled(file)
        warn_once(
            f"{located}: its weights are pickled ({pickled}); they were opened as tensors alone. "
            "save_pretrained of transformers and peft writes safetensors"
        )
        return files
    if not Path(located).is_dir():
        return [Path(str(cached_file(located, safe, revision=revision)))]  # raises, and says why
    for pattern, library in OTHER_FORMATS.items():
        if names == WEIGHTS and (found := sorted(Path(located).glob(pattern))):
            raise Unusable(
                f"its weights are {library} ({found[0].name}). Give the model in PyTorch's format, "
                f"with {safe}: save_pretrained of transformers writes it"
            )
    raise Unusable(f"it has neither {safe} nor {pickled}. {FORMAT}")


def weights_hash(files: Iterable[Path]) -> str:
    """Returns the beginning of the SHA-256 of a model's weights, of all files one after another.

    It is what ``sha256sum model.safetensors`` prints first. A file is read once, as long as it
    stays as it is.
    """
    return _hash(*((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _hash(*files: tuple[Path, int, int]) -> str:
    digest = sha256()
    for path, *_ in files:
        with path.open("rb") as file:
            while piece := file.read(HASHED_AT_ONCE):
                digest.update(piece)
    return digest.hexdigest()[:HASH_LENGTH]


def _whole_or_shards(located: str, name: str, revision: str | None) -> list[Path]:
    if whole := find_file(located, name, revision=revision):
        return [whole]
    index = f"{name}.index.json"
    content = find_object(located, index, revision=revision)
    if content is None:
        return []
    places = content.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise Unusable(f"{index} doesn't say which file holds which weights (weight_map)")
    files = []
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise Unusable(f"{index} names {shard!r}, which is no file beside it")
        file = find_file(located, shard, revision=revision)
        if file is None:
            raise Unusable(f"{index} names {shard}, which doesn't exist; copy or download it")
        files.append(file)
    return files


def _check_pickled(file: Path) -> None:
    """Refuses a pickled file of anything but tensors by name; runs no code of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the lines below say more
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # a damaged file fails in many ways
        if isinstance(error, PermissionError) or runs_out_of_memory(error):
            raise
        raise Unusable(
            f"its weights are pickled ({file.name}), and they are damaged, or not tensors alone, "
            "which could run code when opened. Copy or download them again, or write them as "
            "safetensors: from_pretrained, then save_pretrained, of transformers does"
        ) from error
    entries = content if isinstance(content, dict) else {}
    if isinstance(entries.get("state_dict"), dict):
        raise Unusable(
            f"{file.name} is a checkpoint of a training, with its weights under 'state_dict'. Put "
            "these into a model of transformers (load_state_dict), and save_pretrained writes it"
        )
    are_tensors = (isinstance(k, str) and isinstance(x, torch.Tensor) for k, x in entries.items())
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

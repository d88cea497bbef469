"""Checks that a model's files hold all of its weights, and none that the model has no place for."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from detox_lightning.models.model_files import warn_once
from detox_lightning.models.opening import Unusable

PREFIXES = {
    "base_model.model.": "peft, without merging the adapter",
    "pretrained_model.": "TRL's model with a value head",
    "module.": "torch.nn.DataParallel or DistributedDataParallel",
    "model.": "a module that holds the model, such as a LightningModule",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "a wrapped module of Lightning or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
}
# parts of files, for another task, that may be left out without a warning
HARMLESS = ("pooler.", "cls.", "lm_head.", "classifier.", "score.", "masked_bias", ".version")
Mismatch = tuple[str, Any, Any]  # a name, its shape in the files, its shape by the config


def check_complete(model: Any, found: dict[str, Any], fresh_head: bool = False) -> None:
    """Refuses a model whose weights are partly random numbers, or partly left out.

    Args:
        model: From transformers.
        found: Its ``output_loading_info``, without what transformers itself lets be missing (tied
            weights, tables it computes).
        fresh_head: Whether a missing head may be initialized randomly.
    """
    check_shapes(sorted(found["mismatched_keys"]))
    unknown, layers = sorted(found["unexpected_keys"]), dict(model.named_modules())
    tables = {name for name, buffer in model.named_buffers() if not buffer.is_floating_point()}
    missing = [
        name
        for name in model.state_dict()
        if name in found["missing_keys"] and name not in tables
        if "Sinusoidal" not in type(layers.get(name.rpartition(".")[0])).__name__
    ]
    fresh = [name for name in missing if fresh_head and _is_head(model, name)]
    missing = [name for name in missing if name not in fresh]
    if missing:
        text = f"weights are missing from its files, and would be random numbers: {_first(missing)}"
        raise Unusable(f"{text}. {_remedy(missing, unknown)}")
    if fresh and any("lassification" in kind for kind in model.config.architectures or []):
        warn_once(
            f"{model.name_or_path}: its head is missing, and a new one is used ({_first(fresh)})"
        )
    if surplus := [name for name in unknown if _is_left_out(layers, name)]:
        raise Unusable(
            f"its files hold weights for which its config.json has no place: {_first(surplus)}. "
            "Correct config.json (numbers of layers, biases, quantization), or merge an adapter "
            "first"
        )
    unused = [
        name
        for name in unknown
        if not any(part in name for part in HARMLESS)
        if not (fresh_head and _is_head(model, name))  # that of another task
    ]
    if unused:
        warn_once(f"{model.name_or_path}: of its files, weights are not used: {_first(unused)}")


def check_shapes(mismatches: list[Mismatch]) -> None:
    """Refuses weights that have other shapes in the files than by the config."""
    if mismatches:
        shown = [
            f"{name} is {list(stored)} in the files and {list(expected)} by the config"
            for name, stored, expected in mismatches
        ]
        raise Unusable(
            f"its weights have other shapes than its config.json says: {_first(shown)}. Give the "
            "config that they were saved with"
        )


def check_untied_head(model: Any, files: list[Path]) -> None:
    """Refuses an untied model whose files lack its head or its embeddings.

    T5's family takes its embeddings for a missing head even with ``tie_word_embeddings: false``.
    """
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not words.weight:
        return
    stored = _stored_shapes(files)
    tied = [name for name, x in model.named_parameters(remove_duplicate=False) if x is words.weight]
    heads = [f"{name}.weight" for name, layer in model.named_modules() if layer is head]
    embeddings = [name for name in tied if name not in heads]
    missing = [names[0] for names in (heads, embeddings) if stored.keys().isdisjoint(names)]
    if missing:
        raise Unusable(
            f"weights are missing from its files, and by its config.json no others take their "
            f"place (tie_word_embeddings: false): {_first(missing)}. Give a model that was saved "
            "with them: copy or download it again"
        )


def find_mismatches(
    auto_class: str, located: str, files: list[Path], **options: Any
) -> list[Mismatch]:
    """Compares shapes in a model's files with its config, after transformers failed to open it.

    Weights are neither read nor allocated. If the comparison fails, too, it finds nothing.
    ``options`` are for ``AutoConfig.from_pretrained``.
    """
    import transformers

    with suppress(Exception):
        config = transformers.AutoConfig.from_pretrained(located, **options)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        return [
            (name, shape, expected[name])
            for name, shape in _stored_shapes(files).items()
            if expected.get(name, shape) != shape
        ]
    return []


def _stored_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    from transformers.modeling_utils import load_state_dict

    contents = (load_state_dict(file, map_location="meta") for file in files)
    return {name: tuple(x.shape) for content in contents for name, x in content.items()}


def explain_prefix(missing: list[str], unknown: list[str]) -> str | None:
    """Explains why ``missing`` weights have other, ``unknown`` names, if a prefix is the reason."""
    for name in missing:
        bare = name.partition(".")[2]  # encoders alone are saved without their own name
        found = [other.removesuffix(name) for other in unknown if other.endswith(f".{name}")]
        found += [prefix for prefix in PREFIXES if bare and prefix + bare in unknown]
        if found:
            source = next((PREFIXES[known] for known in PREFIXES if found[0].endswith(known)), None)
            origin = f", as those of {source} do" if source else ""
            return (
                f"The names there begin with {found[0]!r}{origin}: remove the prefix from them, "
                "and save them again"
            )
    return None


def _remedy(missing: list[str], unknown: list[str]) -> str:
    if prefix := explain_prefix(missing, unknown):
        return prefix
    if unknown:
        return (
            f"There are others that it has no place for: {_first(unknown)}. Give a model that was "
            "saved with this head and config.json"
        )
    return (
        "Give a model that was saved with them: copy or download it again, or correct its "
        "config.json if that names too many"
    )


def _first(names: list[str]) -> str:
    rest = f", … ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _is_head(model: Any, name: str) -> bool:
    """Whether a weight is outside of the encoder, or in its pooler."""
    body = model.base_model_prefix
    is_outside = not name.startswith(f"{body}.") or ".pooler." in name
    return is_outside and body in dict(model.named_children())


def _is_left_out(layers: dict[str, Any], name: str) -> bool:
    """Whether a weight belongs to a layer that exists, or to a further one of a list of layers."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        layer = layers.get(".".join(parts[:end]))
        if layer is not None:
            is_further = type(layer).__name__ == "ModuleList" and parts[end].isdigit()
            is_leaf = not list(layer.children()) and bool(list(layer.parameters()))
            rest = ".".join(parts[end:])
            is_buffer = rest in dict(layer.named_buffers())
            # libraries name leftovers of their own with an underscore
            return is_further or (is_leaf and rest[0] != "_" and not is_buffer)
    return False

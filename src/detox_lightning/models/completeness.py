"""Whether a model's files held all of its weights, and none that it has no place for."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from detox_lightning.models.opening import Unusable
from detox_lightning.models.weight_files import tell

SAVED_FROM = {
    "base_model.model.": "peft, without merging the adapter",
    "pretrained_model.": "TRL's model with a value head",
    "module.": "torch.nn.DataParallel or DistributedDataParallel",
    "model.": "a module that holds the model, such as a LightningModule",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "a wrapped module of Lightning or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
}
POOLER = ".pooler."
CONFIGURES = ("revision", "trust_remote_code", "id2label", "label2id")
Mismatch = tuple[str, Any, Any]
# parts for another task that a model may well bring and nobody misses
HARMLESS = ("pooler.", "cls.", "lm_head.", "classifier.", "score.", "masked_bias", ".version")


def check_complete(model: Any, found: dict[str, Any], fresh_head: bool = False) -> None:
    """Refuses a model whose weights are partly random numbers, or partly left out.

    What the library itself lets be missing (tied weights, tables it computes) isn't in its list.

    Args:
        model: From transformers.
        found: What ``output_loading_info`` gave with it.
        fresh_head: Whether its head may begin anew.

    Raises:
        Unusable: If weights are missing, have other shapes, or lie where the config has no layer.
    """
    check_shapes(sorted(found["mismatched_keys"]))
    absent, unknown = set(found["missing_keys"]), sorted(found["unexpected_keys"])
    tables = {name for name, buffer in model.named_buffers() if not buffer.is_floating_point()}
    layers = dict(model.named_modules())
    computed = {name for name in absent if "Sinusoidal" in type(layers.get(_layer(name))).__name__}
    missing = [name for name in model.state_dict() if name in absent - tables - computed]
    if fresh_head and (fresh := [name for name in missing if _is_head(model, name)]):
        missing = [name for name in missing if name not in fresh]
        if not missing and any("lassification" in one for one in model.config.architectures or []):
            tell(f"{model.name_or_path}: its head is missing and begins anew ({_first(fresh)})")
    if missing:
        raise Unusable(_lacking(missing, unknown))
    if surplus := [name for name in unknown if _is_left_out(layers, name)]:
        raise Unusable(
            f"its files hold weights for which its config.json has no place: {_first(surplus)}. "
            "Mend config.json (numbers of layers, biases, quantization), or merge an adapter first"
        )
    if fresh_head:  # what the files have is the head of another task
        unknown = [name for name in unknown if not _is_head(model, name)]
    if others := [name for name in unknown if not any(part in name for part in HARMLESS)]:
        tell(f"{model.name_or_path}: of its files, weights are not used: {_first(others)}")


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _first(names: list[str]) -> str:
    rest = f", … ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def check_shapes(mismatched: list[Mismatch]) -> None:
    """Refuses weights of other shapes than a model's.

    Args:
        mismatched: Names, shapes in the files, and shapes by the config.

    Raises:
        Unusable: If there are any.
    """
    shown = [
        f"{name} is {list(there)} in the files and {list(expected)} by the config"
        for name, there, expected in mismatched
    ]
    if shown:
        raise Unusable(
            f"its weights have other shapes than its config.json says: {_first(shown)}. Give the "
            "config that they were saved with"
        )


def check_own_head(model: Any, is_tied: bool, files: list[Path]) -> None:
    """Refuses a model whose config says that its head is its own, and whose files lack one of both.

    T5's family takes its embeddings for a head that is missing, whatever its config says.

    Args:
        model: From transformers.
        is_tied: Whether ``config.json`` lets head and embeddings be the same; it need not say so.
        files: Of its weights.

    Raises:
        Unusable: If the files lack the head, or the embeddings.
    """
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if is_tied or head is None or head.weight is not words.weight:
        return
    from transformers.modeling_utils import load_state_dict

    there = {name for file in files for name in load_state_dict(file, map_location="meta")}
    layers = model.named_modules(remove_duplicate=False)
    names = {layer: f"{name}.weight" for name, layer in layers if layer in (head, words)}
    embeddings = [
        name
        for name, weight in model.named_parameters(remove_duplicate=False)
        if weight is words.weight and name != names[head]
    ]
    missing = [] if names[head] in there else [names[head]]
    missing += [] if there & {*embeddings} else [names[words]]
    if missing:
        raise Unusable(
            f"weights are missing from its files, and its config.json says that no others stand "
            f"for them (tie_word_embeddings: false): {_first(missing)}. Give a model that was "
            "saved with them: copy or download it again"
        )


def find_mismatched(auto_class: str, located: str, files: list[Path], **given: Any) -> Any:
    """Where a model's files have other shapes than its config says; nothing is read or filled.

    For what the library could not open; it may fail itself, and then finds nothing.

    Args:
        auto_class: ``AutoModelForSeq2SeqLM``, …
        located: Folder or hub id.
        files: Of its weights.
        given: What the library was given.

    Returns:
        For :func:`check_shapes`.
    """
    import transformers
    from transformers.modeling_utils import load_state_dict

    options = {key: given[key] for key in CONFIGURES if key in given}
    found: list[Mismatch] = []
    with suppress(Exception):
        config = transformers.AutoConfig.from_pretrained(located, **options)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for file in files:
            for name, value in load_state_dict(file, map_location="meta").items():
                shape = expected.get(name, tuple(value.shape))
                if shape != tuple(value.shape):
                    found.append((name, tuple(value.shape), shape))
    return found


def _lacking(missing: list[str], unknown: list[str]) -> str:
    said = f"weights are missing from its files, and would be random numbers: {_first(missing)}. "
    if prefix := name_prefix(missing, unknown):
        return said + prefix
    if unknown:
        return (
            f"{said}There are others that it has no place for: {_first(unknown)}. Give a model "
            "that was saved with this head and config.json"
        )
    return (
        f"{said}Give a model that was saved with them: copy or download it again, or mend its "
        "config.json if that names too much"
    )


def name_prefix(missing: list[str], unknown: list[str]) -> str | None:
    """The reason why weights have other names than their model's, if it is a prefix.

    Args:
        missing: Names that were looked for.
        unknown: Names that nobody looked for.

    Returns:
        A sentence with the remedy; None: they have no such prefix.
    """
    for wanted in missing:
        for name in unknown:
            prefix = name.removesuffix(wanted)
            if prefix != name and prefix.endswith("."):
                return _remove(prefix)
        bare = wanted.partition(".")[2]  # encoders alone are saved without their own name
        for prefix in SAVED_FROM:
            if bare and prefix + bare in unknown:
                return _remove(prefix)
    return None


def _remove(prefix: str) -> str:
    source = next((SAVED_FROM[known] for known in SAVED_FROM if prefix.endswith(known)), None)
    whence = f", as those of {source} do" if source else ""
    return (
        f"The names there begin with {prefix!r}{whence}: remove the prefix from them, and save "
        "them again"
    )


def _is_head(model: Any, name: str) -> bool:
    """Whether a weight is of what stands on the encoder, or of its pooler."""
    body = model.base_model_prefix
    return body in dict(model.named_children()) and (
        not name.startswith(f"{body}.") or POOLER in name
    )


def _is_left_out(layers: dict[str, Any], name: str) -> bool:
    """Whether a weight belongs to a layer that is there, or to a further one of a row of them."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        layer = layers.get(".".join(parts[:end]))
        if layer is not None:
            is_row = type(layer).__name__ == "ModuleList" and parts[end].isdigit()
            is_leaf = not list(layer.children()) and bool(list(layer.parameters()))
            own = ".".join(parts[end:])
            # libraries name leftovers of their own with a bar
            is_left_out = is_leaf and own[0] != "_" and own not in dict(layer.named_buffers())
            return is_row or is_left_out
    return False

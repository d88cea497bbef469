"""Whether a model's files held all of its weights, and none that it has no place for."""

from typing import Any

from detox_lightning.models.files import tell
from detox_lightning.models.opening import Unusable

SAVED_FROM = {
    "module.": "torch.nn.DataParallel or DistributedDataParallel",
    "model.": "a module that holds the model, such as a LightningModule",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "a wrapped module of Lightning or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
    "base_model.model.": "peft, without merging the adapter",
    "pretrained_model.": "TRL's model with a value head",
}
POOLER = ".pooler."
# parts for another task that a model may well bring and nobody misses
HARMLESS = ("pooler.", "cls.", "lm_head.", "lm_loss.", "classifier.", "score.", "qa_outputs.")


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
    if mismatched := sorted(found["mismatched_keys"]):
        raise Unusable(_misfit(mismatched))
    absent, unknown = set(found["missing_keys"]), sorted(found["unexpected_keys"])
    tables = {name for name, buffer in model.named_buffers() if not buffer.is_floating_point()}
    missing = [name for name in model.state_dict() if name in absent - tables]
    if fresh_head and (fresh := [name for name in missing if _is_head(model, name)]):
        missing = [name for name in missing if name not in fresh]
        if not missing and any("lassification" in one for one in model.config.architectures or []):
            tell(f"{model.name_or_path}: its head is missing and begins anew ({_first(fresh)})")
    if missing:
        raise Unusable(_lacking(missing, unknown))
    layers = dict(model.named_modules())
    if surplus := [name for name in unknown if _is_left_out(layers, name)]:
        raise Unusable(
            f"its files hold weights for which its config.json has no place: {_first(surplus)}. "
            "Mend config.json (numbers of layers, biases, quantization), or merge an adapter first"
        )
    if others := [name for name in unknown if not any(part in name for part in HARMLESS)]:
        tell(f"{model.name_or_path}: of its files, weights are not used: {_first(others)}")


def _first(names: list[str]) -> str:
    rest = f", … ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _misfit(mismatched: list[tuple[str, Any, Any]]) -> str:
    shown = [
        f"{name} is {list(there)} in the file and {list(expected)} by the config"
        for name, there, expected in mismatched
    ]
    return (
        f"its weights have other shapes than its config.json says: {_first(shown)}. "
        "Give the config that the weights were saved with"
    )


def _lacking(missing: list[str], unknown: list[str]) -> str:
    said = f"weights are missing from its files, and would be random numbers: {_first(missing)}. "
    for wanted in missing:
        for name in unknown:
            prefix = name.removesuffix(wanted)
            if prefix != name and prefix.endswith("."):
                source = next((SAVED_FROM[p] for p in SAVED_FROM if prefix.endswith(p)), None)
                whence = f", as those of {source} do" if source else ""
                return (
                    f"{said}The names there begin with {prefix!r}{whence}: remove the prefix from "
                    "them, and save them again"
                )
    if unknown:
        return (
            f"{said}There are others that it has no place for: {_first(unknown)}. Give a model "
            "that was saved with this head and config.json"
        )
    return f"{said}Copy or download them again, or mend config.json if it names too much"


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
            is_leaf = not any(layer.children()) and any(layer.parameters())
            return is_row or (is_leaf and ".".join(parts[end:]) not in dict(layer.named_buffers()))
    return False

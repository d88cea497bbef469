"""Embeddings beside an adapter: those that its file brings, and copies that no text reaches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError

PREFIX = "base_model.model."  # of a base's weights in an adapter's file


def changed_weights(base: Any, saved: Mapping[str, Tensor], name: str) -> set[str]:
    """Names the tensors of an adapter's file that are weights of its base, but changed.

    Raises:
        InputError: If the file has embeddings for another number of tokens; its message gives the
            adapter's ``name``.
    """
    weights = dict(base.named_parameters(remove_duplicate=False))
    rows = base.get_input_embeddings().weight.shape[0]
    changed = set()
    for key, tensor in saved.items():
        weight = weights.get(key.removeprefix(PREFIX).replace(".base_layer.", "."))
        if weight is None:
            continue
        if weight.shape[1:] == tensor.shape[1:] and len(weight) == rows != len(tensor):
            raise InputError(
                f"the adapter {name!r} has embeddings of {len(tensor)} tokens, and its base "
                f"{base.name_or_path!r} of {rows}: tokens were added while it was trained. Make "
                f"one model of both: resize_token_embeddings({len(tensor)}) of the base, the "
                "adapter on it, merge_and_unload, save_pretrained, and the same of the adapter's "
                "tokenizer; give that folder instead"
            )
        if weight.shape != tensor.shape or not torch.equal(weight.cpu(), tensor.to(weight.dtype)):
            changed.add(key)
    return changed


def refuse_unreached(model: Any) -> None:
    """Raises an InputError if a fresh adapter is on embeddings that no text reaches.

    Such a part of a ``PeftModel`` would learn nothing.
    """
    if name := _unreached(model):
        flag = "modules_to_save" if _is_copy(model.get_submodule(name)) else "target_modules"
        raise InputError(
            f"lora.{flag}: nothing calls {model.config.model_type}'s {name.rpartition('.')[2]!r}, "
            "which others are tied to, so that it would learn nothing. Give 'embed_tokens' instead"
        )


def drop_unreached(model: Any) -> None:
    """Removes the part of a ``PeftModel``'s adapter on embeddings that no text reaches."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    name = _unreached(model)
    if name is None:
        return
    layer, config = model.get_submodule(name), model.peft_config["default"]
    if _is_copy(layer):
        model.set_submodule(name, layer.original_module)
        copied = [one for one in config.modules_to_save if not name.endswith(f".{one}")]
        config.modules_to_save = copied or None
    else:  # the names of all others, as a pattern may still fit this one
        model.set_submodule(name, layer.get_base_layer())
        config.target_modules = {
            other.removeprefix(PREFIX)
            for other, part in model.named_modules()
            if isinstance(part, BaseTunerLayer)
        }


def _unreached(model: Any) -> str | None:
    """Name of adapted embeddings that a forward pass never calls; None if there are none.

    Both stacks of T5, BART and their relatives call ``embed_tokens`` of their own, which are tied
    to ``shared``, and nothing calls that one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    words = base.get_input_embeddings()
    is_adapted = isinstance(words, BaseTunerLayer) or _is_copy(words)
    if not base.config.is_encoder_decoder or not is_adapted:
        return None
    encoder = base.get_encoder()
    calls_its_own = words not in encoder.modules()
    if calls_its_own and isinstance(encoder.get_input_embeddings(), nn.Embedding):
        return next(name for name, layer in model.named_modules() if layer is words)
    return None  # the encoder's are adapted, too: together with these, or for themselves


def _is_copy(layer: nn.Module) -> bool:
    """Whether a layer of peft holds a trainable copy, rather than a change, of the base's."""
    return hasattr(layer, "original_module")

"""Embeddings beside an adapter: those that its file brings, and copies that no text reaches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError

PREFIX = "base_model.model."  # of a base's weights in an adapter's file


def changed_weights(base: Any, saved: Mapping[str, Tensor], name: str) -> set[str]:
    """Names of tensors of an adapter's file that are weights of the base, but not the base's own.

    Args:
        base: A model from transformers, as it was saved.
        saved: The adapter's file.
        name: The adapter's, for the message.

    Raises:
        InputError: If embeddings there are for another number of tokens.
    """
    own = dict(base.named_parameters(remove_duplicate=False))
    rows = base.get_input_embeddings().num_embeddings
    changed = set()
    for key, tensor in saved.items():
        weight = own.get(key.removeprefix(PREFIX).replace(".base_layer.", "."))
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
    """Refuses a fresh adapter on embeddings that no text reaches: it would learn nothing.

    Args:
        model: A ``peft.PeftModel``.

    Raises:
        InputError: If it has such a part.
    """
    for name, instead in unreached(model).items():
        flag = "modules_to_save" if _is_copy(model.get_submodule(name)) else "target_modules"
        kind = model.config.model_type
        raise InputError(
            f"lora.{flag}: nothing asks {kind}'s {_ending(name)!r}, which others are tied to, so "
            f"that it would learn nothing. Give {instead!r} instead"
        )


def drop_unreached(model: Any) -> None:
    """Takes off what an adapter has on embeddings that no text reaches; the rest is all that acts.

    Args:
        model: A ``peft.PeftModel``; it and its config are changed in place.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = model.peft_config["default"]
    for name in unreached(model):
        layer = model.get_submodule(name)
        model.set_submodule(name, _own(layer))
        if _is_copy(layer):
            copied = [one for one in config.modules_to_save if not name.endswith(f".{one}")]
            config.modules_to_save = copied or None
        else:  # by their names, as a pattern may fit it still
            config.target_modules = {
                other.removeprefix(PREFIX)
                for other, kept in model.named_modules()
                if isinstance(kept, BaseTunerLayer)
            }


def unreached(model: Any) -> dict[str, str]:
    """What an adapter has on embeddings that take no part in what a model says.

    T5 has its words three times: the stacks ask their own ``embed_tokens``, which are tied to
    ``shared``, and nobody asks that one.

    Args:
        model: A ``peft.PeftModel``.

    Returns:
        Names of layers of peft, each with the ending of those that are asked in its place.
    """
    found = {}
    twins = _twins(model)
    if not twins:
        return {}
    asked = _asked(model.get_base_model())
    for name, others in twins.items():
        instead = [other for other in others if model.get_submodule(other) in asked]
        if instead and model.get_submodule(name) not in asked:
            found[name] = _ending(instead[0])
    return found


def _twins(model: Any) -> dict[str, list[str]]:
    """Layers of peft on embeddings, each with the names of others that have the same weight."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    words = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    twins = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer) and not _is_copy(layer):
            continue
        own = _own(layer)
        if isinstance(own, nn.Embedding):
            twins[name] = [n for n, m in words if m is not own and m.weight is own.weight]
    return {name: others for name, others in twins.items() if others}


@torch.no_grad()
def _asked(base: Any) -> set[nn.Module]:
    """The modules that a model calls for two tokens."""
    asked: set[nn.Module] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda called, _: asked.add(called))
        for layer in base.modules()
    ]
    two = torch.zeros(1, 2, dtype=torch.long, device=base.device)
    more = {"decoder_input_ids": two} if base.config.is_encoder_decoder else {}
    try:
        base(input_ids=two, **more)
    finally:
        for hook in hooks:
            hook.remove()
    return asked


def _is_copy(layer: nn.Module) -> bool:
    from peft.utils.other import AuxiliaryTrainingWrapper

    return isinstance(layer, AuxiliaryTrainingWrapper)


def _own(layer: Any) -> nn.Module:
    """The base's own layer inside one of peft's."""
    own: nn.Module = layer.original_module if _is_copy(layer) else layer.get_base_layer()
    return own


def _ending(name: str) -> str:
    return name.rpartition(".")[2]

"""Embeddings beside an adapter: those that its file brings, and copies that no text reaches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

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
    for name, instead in _unreached(model).items():
        flag = "modules_to_save" if _is_copy(model.get_submodule(name)) else "target_modules"
        raise InputError(
            f"lora.{flag}: nothing calls {model.config.model_type}'s {_ending(name)!r}, which "
            f"others are tied to, so that it would learn nothing. Give {instead!r} instead"
        )


def drop_unreached(model: Any) -> None:
    """Removes the parts of a ``PeftModel``'s adapter on embeddings that no text reaches."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = model.peft_config["default"]
    for name in _unreached(model):
        layer = model.get_submodule(name)
        model.set_submodule(name, _base_layer(layer))
        if _is_copy(layer):
            copied = [one for one in config.modules_to_save if not name.endswith(f".{one}")]
            config.modules_to_save = copied or None
        else:  # the names of all others, as a pattern may still fit this one
            config.target_modules = {
                other.removeprefix(PREFIX)
                for other, part in model.named_modules()
                if isinstance(part, BaseTunerLayer)
            }


def _unreached(model: Any) -> dict[str, str]:
    """The adapted embeddings that a forward pass never calls, each with the ending of one it does.

    T5 has its token embeddings three times: the stacks call their own ``embed_tokens``, which are
    tied to ``shared``, and nothing calls that one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(model.named_modules())
    embeddings = {name: one for name, one in modules.items() if isinstance(one, nn.Embedding)}
    twins = {}
    for name, layer in modules.items():
        base = _base_layer(layer) if isinstance(layer, BaseTunerLayer) or _is_copy(layer) else None
        if isinstance(base, nn.Embedding):
            others = [n for n, one in embeddings.items() if one.weight is base.weight]
            twins[name] = [n for n in others if embeddings[n] is not base]
    called = _called(model.get_base_model()) if any(twins.values()) else set()
    found = {}
    for name, others in twins.items():
        instead = [other for other in others if modules[other] in called]
        if instead and modules[name] not in called:
            found[name] = _ending(instead[0])
    return found


@torch.no_grad()
def _called(base: Any) -> set[nn.Module]:
    """The modules that a model calls in a forward pass of two tokens."""
    called: set[nn.Module] = set()
    two = torch.zeros(1, 2, dtype=torch.long, device=base.device)
    decoder = {"decoder_input_ids": two} if base.config.is_encoder_decoder else {}
    hook = register_module_forward_pre_hook(lambda module, _: called.add(module))
    try:
        base(input_ids=two, **decoder)
    finally:
        hook.remove()
    return called


def _is_copy(layer: nn.Module) -> bool:
    """Whether a layer of peft holds a trainable copy, rather than a change, of the base's."""
    return hasattr(layer, "original_module")


def _base_layer(layer: Any) -> Any:
    return layer.original_module if _is_copy(layer) else layer.get_base_layer()


def _ending(name: str) -> str:
    return name.rpartition(".")[2]

"""A frozen copy of an adapter beside it: the reference of a policy that begins with one."""

from copy import copy
from typing import Any

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.adapter_config import MERGE
from detox_lightning.models.families.base import Family

CHANGES_BASE = ("pissa", "olora")  # ways of a LoRA to begin


def copy_adapter(model: Any, name: str, family: Family) -> None:
    """Puts a frozen copy of the adapter ``default`` beside it.

    Args:
        model: A ``peft.PeftModel``; it is changed in place, and left in eval mode.
        name: What the copy is called.
        family: What kind of model it is.

    Raises:
        InputError: If peft has no room for a copy, or the model with it is another one.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    its = model.peft_config["default"]
    before = _said(model.eval(), family)
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    try:
        model.add_adapter(name, _as_copy(its))
        set_peft_model_state_dict(model, saved, adapter_name=name)
        model.set_adapter(name, inference_mode=True)
        copied = _said(model.eval(), family)
        model.set_adapter("default")
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise _refused(its, str(error).strip().partition("\n")[0].rstrip(".")) from error
    for key, parameter in model.named_parameters():
        if f".{name}." in key or key.endswith(f".{name}"):
            parameter.requires_grad_(False)
    if not (_alike(before, copied) and _alike(before, _said(model, family))):
        raise _refused(its, "putting the copy on changes the model")


def _as_copy(config: Any) -> Any:
    """The config of a copy, which takes nothing from the base: the adapter itself has done so."""
    config = copy(config)
    config.inference_mode = True
    if str(getattr(config, "init_lora_weights", "")).lower().startswith(CHANGES_BASE):
        config.init_lora_weights = True
    return config


@torch.no_grad()
def _said(model: Any, family: Family) -> Tensor:
    """``[1, 2, V]`` logits of two tokens."""
    base = model.get_base_model()
    two = torch.zeros(1, 2, dtype=torch.long, device=base.device)
    logits: Tensor = family.forward(base, two, torch.ones_like(two), two)[0]
    return logits


def _alike(one: Tensor, other: Tensor) -> bool:
    # weights that are not finite are told of elsewhere
    return torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)


def _refused(config: Any, reason: str) -> InputError:
    return InputError(
        f"an adapter of the kind {config.peft_type.value} can't have a frozen copy beside it, as "
        f"the reference is: {reason}. {MERGE}"
    )

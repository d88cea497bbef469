"""A frozen copy of an adapter beside it: the reference of a policy that begins with an adapter."""

from copy import copy
from typing import Any

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.adapter_config import MERGE
from detox_lightning.models.families.base import Family

CHANGES_BASE = ("pissa", "olora")  # ways to initialize a LoRA


def copy_adapter(model: Any, name: str, family: Family) -> None:
    """Puts a frozen copy of the adapter ``default`` beside it.

    Args:
        model: A ``peft.PeftModel``; it is changed in place, and left in eval mode.
        name: Name of the copy.
        family: The model's family.

    Raises:
        InputError: If peft can't add a copy, or the copy changes the model's outputs.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    base, config = model.get_base_model(), model.peft_config["default"]
    model.eval()
    before = family.dry_run(base)
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    try:
        model.add_adapter(name, _config_of_copy(config))
        set_peft_model_state_dict(model, saved, adapter_name=name)
        model.set_adapter(name, inference_mode=True)
        model.eval()
        copied = family.dry_run(base)
        model.set_adapter("default")
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise _refusal(config, str(error).strip().partition("\n")[0].rstrip(".")) from error
    for key, parameter in model.named_parameters():
        if f".{name}." in key or key.endswith(f".{name}"):
            parameter.requires_grad_(False)
    if not (_are_close(before, copied) and _are_close(before, family.dry_run(base))):
        raise _refusal(config, "putting the copy on changes the model")


def _config_of_copy(config: Any) -> Any:
    """A config that leaves the base alone: the adapter itself has changed the base already."""
    config = copy(config)
    config.inference_mode = True
    if str(getattr(config, "init_lora_weights", "")).lower().startswith(CHANGES_BASE):
        config.init_lora_weights = True
    return config


def _are_close(one: Tensor, other: Tensor) -> bool:
    # NaN is let pass: weights that are not finite have a message of their own
    return torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)


def _refusal(config: Any, reason: str) -> InputError:
    return InputError(
        f"an adapter of the kind {config.peft_type.value} can't have a frozen copy beside it, as "
        f"the reference is: {reason}. {MERGE}"
    )

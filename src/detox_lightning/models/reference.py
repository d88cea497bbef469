"""A model to train, and the reference: the same model as it was when training began."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from detox_lightning.errors import InputError
from detox_lightning.models.adapters import MERGE
from detox_lightning.models.families.base import Family, base_model

REFERENCE = "reference"  # the name of its adapter, if it has one
CHANGES_BASE = ("pissa", "olora")  # ways to initialize a LoRA


class ReferencedModel(nn.Module):
    """A model to train with the model it began as, always in eval mode.

    Dropout would turn the ratio of new to old probabilities into noise.

    Args:
        model: A ``PeftModel`` with the adapter ``default`` to train, and perhaps a frozen
            ``reference``; or a model whose weights are all trained, which costs a frozen copy.
        frozen: Another model that is the reference; None: the model as it is now.
    """

    def __init__(self, model: Any, frozen: Any = None):
        super().__init__()
        self.model = model
        self.frozen = frozen
        if frozen is None and not self.has_adapter:
            self.frozen = deepcopy(model).requires_grad_(False)
        self.checkpoints_gradients = False

    @property
    def base(self) -> Any:
        """The transformers model inside the adapters."""
        return base_model(self.model)

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, rather than the whole model."""
        return hasattr(self.model, "peft_config")

    def train(self, mode: bool = True) -> Any:
        """Stays in eval mode; gradients flow all the same."""
        return super().train(False)

    @contextmanager
    def reference(self, wanted: bool = True) -> Iterator[None]:
        """Inside the block the model is the reference, if that is ``wanted``."""
        if not wanted:
            yield
        elif self.frozen is not None:
            self.model, self.frozen = self.frozen, self.model
            try:
                yield
            finally:
                self.model, self.frozen = self.frozen, self.model
        elif REFERENCE in self.model.peft_config:
            self.model.set_adapter(REFERENCE, inference_mode=True)
            try:
                yield
            finally:
                self.model.set_adapter("default")
        else:
            with self.model.disable_adapter():
                yield

    def layers(self) -> Iterable[nn.Module]:
        """All parts that gradients may flow through, each once."""
        return self.base.modules()

    def enable_gradient_checkpointing(self) -> None:
        """Makes the backward pass compute the layers' activations again.

        transformers' own switch acts in train mode only, and this model stays in eval mode.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.checkpoints_gradients = True
        for layer in self.layers():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.forward = partial(_checkpointed, layer.forward)


def copy_adapter(model: Any, family: Family) -> None:
    """Puts a frozen copy of a ``PeftModel``'s adapter ``default`` beside it, as the reference.

    Raises:
        InputError: If peft can't add a copy, or the copy changes the model's outputs.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    base, config = model.get_base_model(), model.peft_config["default"]
    model.eval()
    before = family.dry_run(base)
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    config_of_copy = copy(config)
    config_of_copy.inference_mode = True
    if str(getattr(config, "init_lora_weights", "")).lower().startswith(CHANGES_BASE):
        config_of_copy.init_lora_weights = True  # the adapter itself has changed the base already
    try:
        model.add_adapter(REFERENCE, config_of_copy)
        set_peft_model_state_dict(model, saved, adapter_name=REFERENCE)
        model.set_adapter(REFERENCE, inference_mode=True)
        model.eval()
        copied = family.dry_run(base)
        model.set_adapter("default")
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise _refusal(config, str(error).strip().partition("\n")[0].rstrip(".")) from error
    for name, parameter in model.named_parameters():
        if REFERENCE in name.split("."):
            parameter.requires_grad_(False)
    # NaN passes here: weights that are not finite have a message of their own
    after = copied, family.dry_run(base)
    if not all(torch.allclose(before, x, rtol=1e-2, atol=1e-3, equal_nan=True) for x in after):
        raise _refusal(config, "putting the copy on changes the model")


def _refusal(config: Any, reason: str) -> InputError:
    return InputError(
        f"an adapter of the kind {config.peft_type.value} can't have a frozen copy beside it, as "
        f"the reference is: {reason}. {MERGE}"
    )


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)

"""TRL 0.8's language models with a value head, opened and saved as this package does."""

import re
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import save_file
from torch import nn

from detox_lightning.errors import InputError
from detox_lightning.models.families.base import Family, base_model
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.loading import load_model
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import VALUE_HEAD, ModelSource
from detox_lightning.models.value_head import ValueHead, restore

OPENING = {"attn_implementation", "device_map", "quantization_config", "revision"}
OPENING |= {"trust_remote_code"}


class ModelWithValueHead(nn.Module):
    """A model of transformers or peft, and a value head, which is 0 at first."""

    family: Family

    def __init__(self, pretrained_model: Any):
        super().__init__()
        base = base_model(pretrained_model)
        self.is_encoder_decoder = isinstance(self.family, EncoderDecoder)
        if base.config.is_encoder_decoder != self.is_encoder_decoder:
            other = "CausalLM" if self.is_encoder_decoder else "Seq2SeqLM"
            name = base.config.model_type
            raise InputError(f"{name}: give such a model to AutoModelFor{other}WithValueHead")
        self.family.check_model(pretrained_model, base.name_or_path)
        self.pretrained_model, self.config = pretrained_model, base.config
        self.is_peft_model = base is not pretrained_model
        self.v_head = ValueHead.of(base)
        self.eval()

    @classmethod
    def from_pretrained(cls, model: Any, peft_config: Any = None, **options: Any) -> Any:
        """Puts a value head on a model: the one that was saved beside it, if there is one.

        Args:
            model: A model of transformers or peft; or the name of a model or an adapter, which is
                always trainable.
            peft_config: The adapter that is put on a model without one.
            options: ``torch_dtype``, and others of transformers, for the name of a model.

        Raises:
            InputError: If there is no such model, or an option is not carried over.
        """
        head, dtype = None, str(options.pop("torch_dtype", "float32")).removeprefix("torch.")
        options.pop("is_trainable", None)
        if options.keys() - OPENING or dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"from_pretrained({', '.join([*options, f'torch_dtype={dtype}'])}): known are "
                f"{', '.join(sorted(OPENING))}, and torch_dtype float32 or bfloat16; or open the "
                "model with transformers, and give it in place of its name"
            )
        if isinstance(model, str | PathLike):
            source = ModelSource.resolve(str(model))
            head = source.load_value_head()
            if source.has_adapter:
                model = source.load(None)
            else:
                model = load_model(cls.family.auto_class, source.base, dtype, **options)
        if peft_config is not None and not hasattr(model, "peft_config"):
            model = get_peft_model(model, peft_config)
        opened = cls(model)
        restore(opened.v_head, head)
        return opened

    def check_learning(self) -> None:
        """Raises an InputError if nothing of the model can learn, or steps would be lost."""
        learning = [p for p in self.pretrained_model.parameters() if p.requires_grad]
        if not learning:
            raise InputError("the model can't learn: open its adapter with is_trainable=True")
        if any(p.dtype != torch.float32 for p in learning) or self.config.dtype == torch.float16:
            raise InputError(
                "small steps are lost in half precision, and T5 overflows in float16: give "
                "torch_dtype=torch.float32, or a LoRA on a base in bfloat16"
            )

    def train(self, mode: bool = True) -> Any:
        """Stays in eval mode: dropout would sample from another policy than is trained."""
        return super().train(False)

    def generate(self, *args: Any, **options: Any) -> Any:
        """Generates with transformers."""
        return self.pretrained_model.generate(*args, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the adapter, or the whole model, and the value head."""
        save_model(self.pretrained_model, None, folder)
        save_file(self.v_head.state_dict(), Path(folder) / VALUE_HEAD)


class AutoModelForSeq2SeqLMWithValueHead(ModelWithValueHead):
    """An encoder-decoder, such as T5, with a value head."""

    family = EncoderDecoder()


class AutoModelForCausalLMWithValueHead(ModelWithValueHead):
    """A decoder-only model, such as GPT-2, with a value head."""

    family = DecoderOnly()


def create_reference_model(model: Any, num_shared_layers: int | None = None) -> Any:
    """Makes a frozen copy of a model.

    ``num_shared_layers`` first layers of a decoder-only model, and its embeddings, are frozen in
    the model as well, and take memory once.
    """
    shared = {}
    for name, parameter in model.named_parameters() if num_shared_layers is not None else ():
        if re.search(rf"\.(h|layers)\.{num_shared_layers}\.", name):
            break
        shared[id(parameter)] = parameter.requires_grad_(False)
    return deepcopy(model, shared).requires_grad_(False)

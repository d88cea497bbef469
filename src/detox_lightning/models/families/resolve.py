"""Which family a model belongs to."""

from typing import Any

from detox_lightning.errors import InputError
from detox_lightning.models.families.base import Family
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.loading import check_kind

LANGUAGE_MODELS = (
    "CausalLM",
    "LMHeadModel",
    "ConditionalGeneration",
    "EncoderDecoderModel",
    "MTModel",
)
STATE_SPACE_MODELS = ("mamba", "rwkv")


def family_of(config: Any, name: str) -> Family:
    """Returns the family of a model.

    Args:
        config: The model's.
        name: The model's name, for the message.

    Raises:
        InputError: If the model is no language model, or one without attention.
    """
    examples = "T5ForConditionalGeneration, GPT2LMHeadModel or LlamaForCausalLM"
    check_kind(name, config, LANGUAGE_MODELS, "write text", examples)
    if any(kind in config.model_type for kind in STATE_SPACE_MODELS):
        raise InputError(
            f"the model {name!r} is of the kind {config.model_type}, which keeps a state instead "
            "of attending to what came before: such models are not supported. Give one such as "
            "GPT-2, Llama or T5"
        )
    return EncoderDecoder() if config.is_encoder_decoder else DecoderOnly()

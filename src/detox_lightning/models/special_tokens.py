"""The tokens that begin, end and pad a model's responses."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from detox_lightning.algorithm.masks import is_any
from detox_lightning.errors import InputError


def end_tokens(config: Any) -> tuple[int, ...]:
    """Returns the tokens of a generation config that end a response, any of them by itself."""
    tokens = config.eos_token_id
    return () if tokens is None else tuple(tokens) if isinstance(tokens, list) else (tokens,)


def padding_token(config: Any) -> int:
    """Returns a generation config's padding token; masks tell padding from text, so any will do."""
    pad = config.pad_token_id
    return (*end_tokens(config), 0)[0] if pad is None else pad


def decoder_start(model: Any) -> int | None:
    """Returns the token that ``generate`` begins a decoder's input with; None if none is named."""
    config = model.generation_config
    starts = (
        config.decoder_start_token_id,
        getattr(model.config, "decoder_start_token_id", None),
        config.bos_token_id if model.config.is_encoder_decoder else None,
    )
    return next((token for token in starts if token is not None), None)


def complete_special_tokens(model: Any, tokenizer: Any, name: str) -> None:
    """Completes a model's generation config with its tokenizer's special tokens.

    Raises:
        InputError: If neither names an end token; its message gives the model's ``name``.
    """
    config, rows = model.generation_config, model.get_input_embeddings().weight.shape[0]
    configs = model.config, model.config.get_text_config(decoder=True)
    candidates = [getattr(each, "eos_token_id", None) for each in configs]
    for tokens in (config.eos_token_id, *candidates, tokenizer.eos_token_id):
        listed = tokens if isinstance(tokens, list) else [tokens]
        ends = [token for token in listed if token is not None and 0 <= token < rows]
        if ends:
            break
    else:
        raise InputError(
            f"the model {name!r} names no end-of-sequence token that it has, and neither does its "
            "tokenizer: no response would ever end. Set eos_token_id in its generation_config.json "
            "or eos_token in its tokenizer_config.json"
        )
    config.eos_token_id = ends if len(ends) > 1 else ends[0]
    pads = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, ends[0])
    config.pad_token_id = next(pad for pad in pads if pad is not None and 0 <= pad < rows)
    config.decoder_start_token_id = decoder_start(model)


def without_end_marks(ids: Tensor, ends: Sequence[int], tokenizer: Any) -> Tensor:
    """Replaces end tokens in responses ``[b, t]`` that a tokenizer would decode as text.

    Some chat models' tokenizers don't call the mark at the end of a turn special. An ordinary word
    that ends a response, such as a full stop, stays.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = tokenizer.all_special_ids
    marks = [end for end in ends if end in added and end not in special]
    fill = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return ids.masked_fill(is_any(ids, marks), fill) if marks and fill is not None else ids

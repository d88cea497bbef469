"""A tiny random model of every architecture that is tried."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    BloomConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma2Config,
    Gemma3Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    LongT5Config,
    MarianConfig,
    MT5Config,
    OPTConfig,
    PegasusConfig,
    Qwen2Config,
    T5Config,
    T5GemmaConfig,
    UMT5Config,
)

from conftest import word_tokenizer

T5_LIKE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BART_LIKE = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}
TOKENS = {"vocab_size": 200, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def bert2bert() -> EncoderDecoderConfig:
    sizes = {
        "vocab_size": 200,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertConfig(**sizes | {"hidden_size": 32}),
        BertConfig(**sizes),  # one is wider
    )
    # its own loss hides pad tokens from the decoder, the first one among them
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 1
    return config


def t5gemma() -> T5GemmaConfig:
    """Encoder and decoder of different sizes, each with a config of its own."""
    sizes = LLAMA_LIKE | {"head_dim": 8, "sliding_window": 8}
    wider = sizes | {"hidden_size": 24}
    return T5GemmaConfig(encoder=wider, decoder=sizes, vocab_size=200)


CONFIGS: dict[str, Callable[[], Any]] = {
    "T5": lambda: T5Config(**T5_LIKE, **TOKENS),
    "FLAN-T5": lambda: T5Config(
        **T5_LIKE, **TOKENS, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    # a decoder of more layers than the encoder, and one of fewer: configs count the encoder's
    "mT5": lambda: MT5Config(**T5_LIKE, **TOKENS, num_decoder_layers=3),
    "UMT5": lambda: UMT5Config(**T5_LIKE, **TOKENS),
    # windows, logits that are bent, and configs of encoder and decoder within the model's
    "T5Gemma": t5gemma,
    "LongT5": lambda: LongT5Config(**T5_LIKE, **TOKENS, num_decoder_layers=1, local_radius=4),
    # BART forces a first and a last token in generation, unless told otherwise
    "BART": lambda: BartConfig(**BART_LIKE, **TOKENS, bos_token_id=2, forced_eos_token_id=1),
    "Pegasus": lambda: PegasusConfig(**BART_LIKE, **TOKENS),
    "Marian": lambda: MarianConfig(**BART_LIKE | {"decoder_layers": 1}, **TOKENS),
    "BERT2BERT": bert2bert,
}


# GPT-2's tokenizer has no padding: EOS serves
ENDS = {"vocab_size": 200, "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": None}
LLAMA_LIKE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 200,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DECODER_ONLY: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, **ENDS),
    "GPT-Neo": lambda: GPTNeoConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        max_position_embeddings=128,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        **ENDS,
    ),
    "Llama": lambda: LlamaConfig(**LLAMA_LIKE),
    "Qwen2": lambda: Qwen2Config(**LLAMA_LIKE),
    "Gemma": lambda: GemmaConfig(**LLAMA_LIKE, head_dim=8),
    # alternating windows, and logits that are bent
    "Gemma 2": lambda: Gemma2Config(**LLAMA_LIKE, head_dim=8, sliding_window=8),
    # a language model and a vision tower, which gets no image
    "Gemma 3": lambda: Gemma3Config(
        text_config=LLAMA_LIKE | {"head_dim": 8, "sliding_window": 8},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        mm_tokens_per_image=4,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    ),
    "OPT": lambda: OPTConfig(
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        vocab_size=200,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    ),
    # counts positions by itself
    "BLOOM": lambda: BloomConfig(hidden_size=16, n_layer=2, n_head=2, **ENDS | {"pad_token_id": 0}),
}


# whose code is another's among these but for an option: T5's, BART's, Llama's
ALIKE = ("FLAN-T5", "UMT5", "Pegasus", "Marian", "Qwen2", "Gemma")


def each(names: Iterable[str]) -> list[Any]:
    """A parameter for each architecture; those that are like another are slow."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=slow) if name in ALIKE else name for name in names]


def save_random(name: str, path: Path) -> str:
    """Writes a tiny random model with its tokenizer."""
    torch.manual_seed(0)
    config = (CONFIGS | DECODER_ONLY)[name]()
    if name == "BERT2BERT":
        model = EncoderDecoderModel(config)
        model.generation_config.decoder_start_token_id = 2
        model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    else:
        auto = AutoModelForCausalLM if name in DECODER_ONLY else AutoModelForSeq2SeqLM
        model = auto.from_config(config)
    model.save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return str(path)

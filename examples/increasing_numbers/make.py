"""Writes a random T5, which knows numbers from 0 to 49, and its prompt."""

from pathlib import Path

import torch
from examples.words import save_rows, save_tokenizer
from transformers import T5Config, T5ForConditionalGeneration

FOLDER = Path("models/increasing_numbers")
PROMPT = "write numbers that rise"


def main() -> None:
    """Writes the folders ``policy`` and ``data``."""
    size = save_tokenizer(FOLDER / "policy", [*PROMPT.split(), *map(str, range(50))])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=size,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_heads=4,
        num_layers=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(FOLDER / "policy")
    for split, count in {"train": 256, "validation": 100, "test": 100}.items():
        save_rows(FOLDER / "data" / f"{split}.jsonl", [{"prompt": PROMPT}] * count)


if __name__ == "__main__":
    main()

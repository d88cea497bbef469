"""Writes a random GPT-2 whose words are the graph's nodes, and random walks to learn from."""

from pathlib import Path
from random import Random

import torch
from examples.randomwalks.graph import EDGES, LONGEST, NODES, walk
from examples.words import save_rows, save_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

FOLDER = Path("models/randomwalks")
WALKS = {"train": 1000, "validation": 100, "test": 100}


def main() -> None:
    """Writes the folders ``model`` and ``data``."""
    size = save_tokenizer(FOLDER / "model", NODES)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=size,
        n_positions=2 * LONGEST,
        n_embd=64,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(FOLDER / "model")
    random = Random(0)
    for split, count in WALKS.items():
        starts = [NODES[1 + i % (len(NODES) - 1)] for i in range(count)]  # not from the goal
        walks = [walk(EDGES, start, random) for start in starts]
        rows = [{"start": start, "rest": " ".join(rest)} for start, *rest in walks]
        save_rows(FOLDER / "data" / f"{split}.jsonl", rows)


if __name__ == "__main__":
    main()

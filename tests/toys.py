"""Toy batches for the supervised and the reward stage."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from conftest import FEELINGS, NAMES, word_tokenizer
from detox_lightning.batches import LabeledBatch, PromptBatch

PAIRS = [
    (
        f"Summarize the following conversation . {name} : {feeling} . Summary :",
        f"{name} is {feeling} .",
    )
    for name, feeling in zip(NAMES, FEELINGS, strict=True)
]
TEXTS = [
    *[(f"{name} is nice and kind", 0) for name in NAMES],
    *[(f"{name} is a stupid moron", 1) for name in NAMES],
]


def collate_pairs(pairs: list[tuple[str, str]], side: str = "right") -> PromptBatch:
    tokenizer = word_tokenizer()
    prompts, references = [list(column) for column in zip(*pairs, strict=True)]
    source = tokenizer(prompts, padding=True, padding_side=side, return_tensors="pt")
    target = tokenizer(references, padding=True, return_tensors="pt")
    return PromptBatch(
        source["input_ids"],
        source["attention_mask"].bool(),
        target["input_ids"],
        target["attention_mask"].bool(),
        prompts,
        references,
        torch.tensor([PAIRS.index(pair) if pair in PAIRS else -1 for pair in pairs]),
    )


def collate_texts(rows: list[tuple[str, int]]) -> LabeledBatch:
    texts, labels = zip(*rows, strict=True)
    encoded = word_tokenizer()(list(texts), padding=True, return_tensors="pt")
    mask = encoded["attention_mask"].bool()
    return LabeledBatch(encoded["input_ids"], mask, torch.tensor(labels))


def pairs_loader(
    batch_size: int = 8, pairs: list[tuple[str, str]] = PAIRS, side: str = "right"
) -> Any:
    collate = partial(collate_pairs, side=side)
    return DataLoader(pairs, batch_size=batch_size, collate_fn=collate)


def texts_loader(batch_size: int = 8, rows: list[tuple[str, int]] = TEXTS) -> Any:
    return DataLoader(rows, batch_size=batch_size, collate_fn=collate_texts)


def blank_checkpoint(**more: Any) -> dict[str, Any]:
    """What Lightning would write of nothing."""
    loops: dict[str, Any] = {"epoch": 0, "global_step": 0, "loops": {}, "callbacks": {}}
    optimizers: dict[str, Any] = {"optimizer_states": [], "lr_schedulers": []}
    return {"pytorch-lightning_version": "2.6", "state_dict": {}, **loops, **optimizers, **more}


def make_trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu",
            "default_root_dir": folder,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            **options,
        }
    )

"""What was recorded from TRL, under our names."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from detox_lightning.algorithm.masks import mask_from_lengths
from detox_lightning.batches import PromptBatch
from detox_lightning.rollout import Responses

DATA = Path(__file__).parent / "data"
ESTIMATORS = {"kl": "k1", "abs": "abs", "mse": "k2", "full": "full"}
PAD = 0


def our_name(name: str) -> str:
    """The name in ``PPOModule`` of a parameter of TRL's model with a value head."""
    name = name.replace("pretrained_model.", "policy.model.")
    return name.replace("v_head.summary.", "policy.value_head.linear.")


class GoldenSet:
    """One set: its configuration and what was computed in each step."""

    def __init__(self, name: str):
        recorded = json.loads((DATA / f"{name}.json").read_text())
        self.name = name
        self.config: dict[str, Any] = recorded["config"]
        self.steps: list[dict[str, Any]] = recorded["steps"]
        self.arrays = load_file(DATA / f"{name}.safetensors")

    def __getitem__(self, key: tuple[int, str]) -> Tensor:
        step, name = key
        return self.arrays[f"step{step}.{name}"]

    def __contains__(self, key: tuple[int, str]) -> bool:
        step, name = key
        return f"step{step}.{name}" in self.arrays

    def parameters(self, step: int, kind: str) -> dict[str, Tensor]:
        """What was kept of ``grad``, ``param_after``, ``mb0.grad``, … by our names."""
        prefix = f"step{step}.{kind}."
        return {
            our_name(name.removeprefix(prefix)): value
            for name, value in self.arrays.items()
            if name.startswith(prefix)
        }

    def minibatch_rows(self, step: int) -> list[Tensor]:
        """The rows of each mini-batch, in the order of the update."""
        orders = torch.tensor(self.steps[step]["permutations"])
        size = self.config["mini_batch_size"]
        return [rows for order in orders for rows in order.split(size)]


golden_set = cache(GoldenSet)


def mask_without_first(lengths: Tensor, width: int) -> Tensor:
    """A mask that leaves each response's first token out, as TRL's legacy trainer did."""
    return mask_from_lengths(lengths, width) & (torch.arange(width) > 0)


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Pads rows on the right; ids and lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), PAD)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = torch.tensor(values)
    return ids, lengths


@cache
def episodes() -> list[tuple[PromptBatch, Responses, Tensor]]:
    """Prompts, responses and scores of each step; the responses without the decoder start token."""
    return [_episode(**step) for step in json.loads((DATA / "episodes.json").read_text())["steps"]]


def _episode(
    queries: list[list[int]], responses: list[list[int]], scores: list[float]
) -> tuple[PromptBatch, Responses, Tensor]:
    prompt_ids, lengths = padded(queries)
    prompt_mask = mask_from_lengths(lengths, prompt_ids.shape[1])
    texts = [""] * len(queries)
    index = torch.arange(len(texts))
    batch = PromptBatch(prompt_ids, prompt_mask, prompt_ids, prompt_mask, texts, texts, index)
    ids, lengths = padded([response[1:] for response in responses])
    mask = mask_without_first(lengths, ids.shape[1])
    return batch, Responses(ids, mask, texts), torch.tensor(scores)

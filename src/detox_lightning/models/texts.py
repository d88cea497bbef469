"""How texts reach a model with little padding: equal ones once, those of like length together."""

from typing import Any

import torch
from torch import Tensor

PADDING = 0.15  # rows are read together where padding is no more than this share of their tokens,
SLACK = 64  # or than so many tokens: reading a group apart has a price, too


def distinct_texts(texts: list[str]) -> tuple[list[str], Tensor]:
    """Leaves out what was there before.

    Args:
        texts: ``n`` texts.

    Returns:
        The different ones among them, in order of appearance, and ``[n]``: where among these each
        text is.
    """
    places: dict[str, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    return list(places), torch.tensor(rows, dtype=torch.long)


def encode(tokenizer: Any, texts: list[str], max_tokens: int, **options: Any) -> list[list[int]]:
    """Tokens of texts, cut at ``max_tokens``; of no texts, too, where tokenizers fail.

    Args:
        tokenizer: The model's.
        texts: ``n`` texts.
        max_tokens: The most that the model reads.
        options: For the tokenizer.
    """
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens, **options)[
        "input_ids"
    ]
    return encoded


def alike(lengths: list[int], most: int | None = None) -> list[list[int]]:
    """Groups of rows of about equal lengths.

    Args:
        lengths: Of each row.
        most: Rows of one group at most; None: as many as there are.

    Returns:
        Groups of places, the longest first; of each, at most :data:`PADDING` of the tokens, or
        :data:`SLACK`, is padding.
    """
    groups: list[list[int]] = []
    padding = real = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        padding += longest - lengths[row]
        real += lengths[row]
        if groups and len(groups[-1]) != most and padding <= max(PADDING * real, SLACK):
            groups[-1].append(row)
        else:
            groups.append([row])
            padding, real = 0, lengths[row]
    return groups


def token_limit(model: Any, tokenizer: Any) -> int:
    """The shorter of what tokenizer and position embeddings allow."""
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:
        positions -= (config.pad_token_id or 0) + 1
    # a tokenizer without a limit says 1e30, which it does not take for one
    return int(min(positions, tokenizer.model_max_length, 2**31 - 1))

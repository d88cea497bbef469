"""How texts reach a model in few, full batches: equal ones once, those of like length together."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Text = TypeVar("Text", str, tuple[str, str])


def distinct_texts(texts: list[Text]) -> tuple[list[Text], Tensor]:
    """Leaves out what was there before.

    Args:
        texts: ``n`` texts, or pairs of them.

    Returns:
        The different ones among them, in order of appearance, and ``[n]``: where among these each
        text is.
    """
    places: dict[Text, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    return list(places), torch.tensor(rows, dtype=torch.long)


def encode(
    tokenizer: Any, texts: list[str], max_tokens: int | None, **options: Any
) -> list[list[int]]:
    """Tokens of texts, cut at ``max_tokens``; of no texts, too, where tokenizers fail.

    Args:
        tokenizer: The model's.
        texts: ``n`` texts.
        max_tokens: The most that the model reads; None: texts stay whole.
        options: For the tokenizer.
    """
    if not texts:
        return []
    if max_tokens is not None:
        options |= {"truncation": True, "max_length": max_tokens}
    encoded: list[list[int]] = tokenizer(texts, **options)["input_ids"]
    return encoded


def by_length(encoded: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Batches of places in ``encoded``, the shortest sequences first.

    Args:
        encoded: Tokens of each text.
        batch_size: Texts of one batch.
    """
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def token_limit(model: Any, tokenizer: Any) -> int:
    """The shorter of what tokenizer and position embeddings allow."""
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:
        positions -= (config.pad_token_id or 0) + 1
    # a tokenizer without a limit says 1e30, which it does not take for one
    return int(min(positions, tokenizer.model_max_length, 2**31 - 1))

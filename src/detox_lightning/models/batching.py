"""How texts reach a model with little padding: equal ones once, those of like length together."""

import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

# what it costs to call a model once more: weights are read again, which takes as long as so many
# tokens; and each layer is called, in multiplications by its weights: Python has a price, and on a
# GPU launches, and rows too few to fill it
AGAIN = 32
CALL = {"cpu": 2**22, "cuda": 2**37}

# what models call the table of the positions' embeddings; those of distances have other names
POSITIONS = re.compile(
    r"(^|\.)(position_embeddings?|embed_positions|positions_embed|pos_embed|wpe)$"
)

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


def padding_budget(model: Any) -> int:
    """Tokens of padding that cost no more than to call a model once more.

    Args:
        model: From transformers; a layer of it is taken to have ``12 d²`` weights.
    """
    width = getattr(model.config, "hidden_size", 1024)
    return AGAIN + CALL.get(model.device.type, CALL["cuda"]) // (12 * width**2)


def group_by_length(lengths: list[int], slack: int, most: int | None = None) -> list[list[int]]:
    """Groups of rows of about equal lengths.

    Args:
        lengths: Of each row.
        slack: Tokens of padding that don't matter; see :func:`padding_budget`.
        most: Rows of one group at most; None: as many as there are.

    Returns:
        Groups of places, the longest first; padded to its longest, each has at most ``slack``
        tokens of padding.
    """
    groups: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        padding += longest - lengths[row]
        if groups and len(groups[-1]) != most and padding <= slack:
            groups[-1].append(row)
        else:
            groups.append([row])
            padding = 0
    return groups


def token_limit(model: Any, tokenizer: Any) -> int:
    """The shorter of what tokenizer and model allow.

    Args:
        model: From transformers.
        tokenizer: Its own; without a limit it says 1e30, which it does not take for one.
    """
    says = tokenizer.model_max_length
    return int(min(count_positions(model) or says, says, 2**31 - 1))


def count_positions(model: Any) -> int | None:
    """Tokens that a model has positions for; None: any number.

    Where it has learned embeddings of positions, some of their rows may be in no token's place:
    RoBERTa and its kin count from the padding token on, BART and OPT from an offset.

    Args:
        model: From transformers.
    """
    tables = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and POSITIONS.search(name)
    ]
    limits = [table.num_embeddings - _first_position(table) for table in tables]
    said: int | None = getattr(model.config, "max_position_embeddings", None)
    if said and said > 0:  # XLNet, which has no limit, says -1
        limits.append(said)
    return min(limits, default=None)


def _first_position(table: nn.Embedding) -> int:
    padding = -1 if table.padding_idx is None else table.padding_idx
    return int(getattr(table, "offset", padding + 1))

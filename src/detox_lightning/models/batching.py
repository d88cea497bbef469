"""How texts reach a model with little padding: equal ones once, those of like length together."""

import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

# One more call of a model costs as much as CALL_TOKENS more tokens, since weights are read again,
# and in each layer as much as CALL_PRODUCTS multiplications: for Python, on a GPU for launches and
# for rows too few to fill it.
CALL_TOKENS = 32
CALL_PRODUCTS = {"cpu": 2**22, "cuda": 2**37}

# Names of tables of position embeddings; tables of distances have other names.
POSITION_TABLES = re.compile(
    r"(^|\.)(position_embeddings?|embed_positions|positions_embed|pos_embed|wpe)$"
)

Text = TypeVar("Text", str, tuple[str, str])


def distinct_texts(texts: list[Text]) -> tuple[list[Text], Tensor]:
    """Removes duplicates, keeping first occurrences; also ``[n]`` each text's index among them."""
    places: dict[Text, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    return list(places), torch.tensor(rows, dtype=torch.long)


def encode(
    tokenizer: Any, texts: list[str], max_tokens: int | None, **options: Any
) -> list[list[int]]:
    """Each text's tokens, cut to ``max_tokens``; also of no texts, at which tokenizers fail."""
    if not texts:
        return []
    if max_tokens is not None:
        options |= {"truncation": True, "max_length": max_tokens}
    encoded: list[list[int]] = tokenizer(texts, **options)["input_ids"]
    return encoded


def padding_budget(model: Any) -> int:
    """Tokens of padding that cost no more than one more call of a transformers model.

    Its layers are assumed to have ``12 d²`` weights each.
    """
    width = getattr(model.config, "hidden_size", 1024)
    products = CALL_PRODUCTS.get(model.device.type, CALL_PRODUCTS["cuda"])
    return CALL_TOKENS + products // (12 * width**2)


def group_by_length(
    lengths: list[int], budget: int, max_rows: int | None = None
) -> list[list[int]]:
    """Groups of rows whose lengths differ little.

    Args:
        lengths: Each row's.
        budget: The most tokens of padding in a group; see :func:`padding_budget`.
        max_rows: The most rows in a group; None: any number.

    Returns:
        Groups of indices, the longest rows first.
    """
    groups: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        padding += longest - lengths[row]
        if groups and len(groups[-1]) != max_rows and padding <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
            padding = 0
    return groups


def token_limit(model: Any, tokenizer: Any) -> int:
    """The most tokens that both a model and its tokenizer allow."""
    limit = tokenizer.model_max_length  # 1e30 if it has none, a number that it can't use
    return int(min(count_positions(model) or limit, limit, 2**31 - 1))


def count_positions(model: Any) -> int | None:
    """Tokens that a transformers model has positions for; None: any number.

    Some rows of a table of learned position embeddings may belong to no token: RoBERTa and its
    relatives count from the padding token on, BART and OPT from an offset.
    """
    tables = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and POSITION_TABLES.search(name)
    ]
    limits = [table.num_embeddings - _first_position(table) for table in tables]
    configured: int | None = getattr(model.config, "max_position_embeddings", None)
    if configured and configured > 0:  # XLNet, which has no limit, says -1
        limits.append(configured)
    return min(limits, default=None)


def _first_position(table: nn.Embedding) -> int:
    padding = -1 if table.padding_idx is None else table.padding_idx
    return int(getattr(table, "offset", padding + 1))

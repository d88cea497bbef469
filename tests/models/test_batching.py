"""Equal texts once, texts of like length together, and none too long."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conftest import word_tokenizer
from detox_lightning.models.batching import (
    distinct_texts,
    encode,
    group_by_length,
    padding_budget,
    token_limit,
)

CPU = torch.device("cpu")


def test_equal_texts_share_a_place() -> None:
    texts, rows = distinct_texts(["b", "a", "b", "", "a"])
    assert texts == ["b", "a", ""]
    assert [texts[row] for row in rows.tolist()] == ["b", "a", "b", "", "a"]
    none, nowhere = distinct_texts([])
    assert (none, nowhere.tolist()) == ([], [])
    assert ["x"][nowhere.sum()] == "x"  # whole numbers, that index


def test_groups_are_padded_by_no_more_than_a_bound() -> None:
    lengths = [1000, 100, 990, 3000, 950, 110, 90, 41]
    groups = group_by_length(lengths, budget=64)
    assert groups == [[3], [0, 2, 4], [5, 1, 6], [7]]
    for group in groups:
        real = [lengths[row] for row in group]
        assert max(real) * len(real) - sum(real) <= 64
    assert group_by_length([1, 30, 2, 30], budget=64) == [[1, 3, 2, 0]]
    assert group_by_length([1, 0, 64, 0], budget=64) == [[2, 0], [1, 3]]


def test_a_small_model_is_called_less_often() -> None:
    """Its tokens are cheap, and a call is not."""
    free = [
        padding_budget(SimpleNamespace(config=SimpleNamespace(hidden_size=d), device=CPU))
        for d in (64, 128, 768)
    ]
    assert free == [32 + 85, 32 + 21, 32]


def test_groups_have_a_largest_size() -> None:
    assert group_by_length([5, 1, 3, 0, 1], 64, max_rows=2) == [[0, 2], [1, 4], [3]]
    assert group_by_length([], 64, max_rows=2) == []


def test_no_texts_have_no_tokens() -> None:
    assert encode(word_tokenizer(), [], 8) == []


class Positions(nn.Module):
    """A model's table of positions under the name that it is given, and what its config says."""

    def __init__(self, said: int | None, name: str = "", rows: int = 0, padding: int | None = None):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=said)
        self.word_embeddings = nn.Embedding(7, 2, padding_idx=1)
        if name:
            setattr(self, name, nn.Embedding(rows, 2, padding_idx=padding))


@pytest.mark.parametrize(
    ("model", "says", "limit"),
    [
        (Positions(64, "position_embeddings", 64), 512, 64),
        (Positions(64, "position_embeddings", 64), 32, 32),
        (Positions(66, "position_embeddings", 66, padding=1), 512, 64),
        (Positions(None, "wpe", 48), 512, 48),
        (Positions(64, "relative_attention_bias", 8), 512, 64),  # no table of positions
        (Positions(64), 512, 64),
        (Positions(None), 512, 512),
        (Positions(-1), 512, 512),
        (Positions(None), int(1e30), 2**31 - 1),
    ],
)
def test_the_limit_is_the_tighter_of_two(model: Positions, says: int, limit: int) -> None:
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = says
    assert token_limit(model, tokenizer) == limit
    words = " ".join(["fool"] * 600)
    assert len(encode(tokenizer, [words], limit)[0]) == min(limit, 601)  # and EOS

"""What hypothesis draws: small batches with responses of all lengths, empty ones included."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from detox_lightning.algorithm.masks import mask_from_lengths

SIZES = st.integers(1, 5)


def numbers(size: int, low: float = -10, high: float = 10) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high, width=32), min_size=size, max_size=size)


@st.composite
def matrices(draw: Any, rows: int, width: int, low: float = -10, high: float = 10) -> Tensor:
    """``[rows, width]`` float64."""
    values = draw(numbers(rows * width, low, high))
    return torch.tensor(values, dtype=torch.float64).view(rows, width)


@st.composite
def batches(draw: Any, arrays: int = 1, shortest: int = 0) -> tuple[Tensor, ...]:
    """A mask and ``arrays`` arrays ``[b, t]``, with NaN outside it."""
    rows, width = draw(SIZES), draw(SIZES)
    lengths = draw(st.lists(st.integers(min(shortest, width), width), min_size=rows, max_size=rows))
    mask = mask_from_lengths(torch.tensor(lengths), width)
    drawn = [draw(matrices(rows, width)).masked_fill(~mask, torch.nan) for _ in range(arrays)]
    return mask, *drawn

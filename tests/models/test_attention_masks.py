"""Masks on a GPU are made without reading whether they mask anything."""

from typing import Any

import torch
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from detox_lightning.models.attention_masks import unread_mask


def made(mask: torch.Tensor | None, is_causal: bool, device: str = "cpu") -> Any:
    return unread_mask(
        batch_size=2,
        q_length=3,
        kv_length=3,
        mask_function=causal_mask_function if is_causal else bidirectional_mask_function,
        attention_mask=mask,
        allow_is_causal_skip=is_causal,
        allow_is_bidirectional_skip=not is_causal,
        device=device,
    )


def test_a_cpu_is_asked_and_leaves_out_a_mask_of_nothing() -> None:
    for is_causal in (False, True):
        assert made(torch.ones(2, 3).bool(), is_causal) is None
    padded = torch.tensor([[True, True, False], [True, True, True]])
    assert made(padded, False)[:, 0, 0].tolist() == padded.tolist()


def test_another_device_is_not_asked() -> None:
    """A device without values couldn't answer."""
    for is_causal in (False, True):
        mask = made(torch.ones(2, 3, device="meta").bool(), is_causal, "meta")
        assert mask.shape == (2, 1, 3, 3)
        assert made(None, is_causal, "meta") is None  # transformers knows that nothing is masked

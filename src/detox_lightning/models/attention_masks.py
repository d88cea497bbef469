"""Attention masks that a GPU makes without being asked for their values."""

from typing import Any

from torch import Tensor


def register_masks() -> None:
    """Makes transformers' masks for torch's attention by :func:`unread_mask`, in this process."""
    from transformers.masking_utils import AttentionMaskInterface

    AttentionMaskInterface.register("sdpa", unread_mask)


def unread_mask(attention_mask: Tensor | None = None, **options: Any) -> Any:
    """Makes transformers' mask, on a GPU even if it masks nothing.

    transformers leaves it out then, which quickens attention on a CPU. On a GPU, it would wait in
    each forward pass for the answer to whether anything is masked.
    """
    from transformers.masking_utils import sdpa_mask

    if attention_mask is not None and attention_mask.device.type != "cpu":
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(attention_mask=attention_mask, **options)

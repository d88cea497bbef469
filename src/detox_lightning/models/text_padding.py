"""Pads texts so that a classifier reads each of a batch as if it came alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def padding_id(model: Any) -> int | None:
    """Returns the padding token of a model's config; None if it has none with an embedding."""
    token: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
    rows = model.get_input_embeddings().weight.shape[0]
    return token if token is not None and 0 <= token < rows else None


def _takes_last(model: Any) -> bool:
    """Whether a model takes a batch's last column for each text's end, padding or not (XLNet)."""
    return getattr(model.config, "summary_type", None) == "last"


def repadded(model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Adapts ids and mask ``[b, s]`` that a tokenizer padded on the right to a model's padding."""
    pad = padding_id(model)
    if pad is not None:
        ids = ids.masked_fill(~mask, pad)
    if not _takes_last(model):
        return ids, mask
    places = torch.arange(ids.shape[1], device=ids.device) - (~mask).sum(dim=1, keepdim=True)
    places %= ids.shape[1]
    return ids.gather(1, places), mask.gather(1, places)


@contextmanager
def padded(model: Any, rows: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pads texts with the token that the model inside the block takes for padding.

    Decoders find a text's last token by the padding after it; one without a padding token gets one
    that none of the texts ends with. Padding stands on the right, where it moves no position and a
    decoder doesn't look; but on the left for models that take a batch's last column (XLNet).

    Yields:
        Ids ``[b, s]`` of the ``rows``, which may not be empty, and a mask ``[b, s]`` that is 1
        where there is text, both on the CPU.
    """
    config = model.config.get_text_config()
    before: int | None = getattr(config, "pad_token_id", None)
    pad = padding_id(model)
    if pad is None:
        last = {ids[-1] for ids in rows}
        pad = next(token for token in range(len(rows) + 1) if token not in last)
    side = "left" if _takes_last(model) else "right"
    ids = [torch.tensor(row) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    config.pad_token_id = pad
    try:
        yield (
            pad_sequence(ids, batch_first=True, padding_value=pad, padding_side=side),
            pad_sequence(mask, batch_first=True, padding_side=side),
        )
    finally:
        config.pad_token_id = before


def logits_of(model: Any, rows: list[list[int]]) -> Tensor:
    """Returns ``[b, labels]`` float32 logits of ``b`` tokenized texts, padded as one batch."""
    with padded(model, rows) as (ids, mask):
        output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    logits: Tensor = output.logits
    return logits.float()


@torch.no_grad()
def mixes_padding(model: Any, short: list[int], long: list[int]) -> bool:
    """Whether a classifier's logits of a text depend on the padding beside it.

    Some kinds mix tokens without regard to the mask: by Fourier transforms (FNet), by convolutions
    (ConvBERT, MobileBERT), or by segments of the text (Nyströmformer). ``short`` and ``long`` are
    the token ids of two texts.
    """
    alone, beside = logits_of(model, [short])[0], logits_of(model, [short, long])[0]
    return not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4, equal_nan=True)

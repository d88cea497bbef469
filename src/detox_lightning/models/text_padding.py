"""Texts of different lengths as one batch, which a classifier reads as if each came alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def padding_id(model: Any) -> int | None:
    """What a model takes for padding; None: it knows none.

    Args:
        model: From transformers; some configs name a token without an embedding, such as -1.
    """
    named: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
    embedded = model.get_input_embeddings().weight.shape[0]
    return named if named is not None and 0 <= named < embedded else None


def takes_last(model: Any) -> bool:
    """Whether a model takes a batch's last token for each text's, padding or not.

    Args:
        model: From transformers.
    """
    return getattr(model.config, "summary_type", None) == "last"


def repadded(model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A batch that was padded on the right by a tokenizer, as the model wants it.

    Args:
        model: A sequence classifier from transformers that knows padding.
        ids: ``[b, s]``.
        mask: ``[b, s]``, True where there is text.

    Returns:
        Ids and mask, ``[b, s]``.
    """
    pad = padding_id(model)
    if pad is not None:
        ids = ids.masked_fill(~mask, pad)
    if not takes_last(model):
        return ids, mask
    places = torch.arange(ids.shape[1], device=ids.device) - (~mask).sum(dim=1, keepdim=True)
    places %= ids.shape[1]
    return ids.gather(1, places), mask.gather(1, places)


@torch.no_grad()
def mixes_padding(model: Any, short: list[int], long: list[int]) -> bool:
    """Whether what a classifier says of a text depends on the padding beside it.

    Some kinds mix tokens without a look at the mask: by Fourier transforms (FNet), by convolutions
    (ConvBERT, MobileBERT), or by parts of the text as a whole (Nyströmformer).

    Args:
        model: A sequence classifier from transformers, in eval mode.
        short: Token ids of a text.
        long: Those of a longer one.
    """

    def logits(*rows: list[int]) -> Tensor:
        with padded(model, list(rows)) as (ids, mask):
            output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        return output.logits[0].float()

    alone, beside = logits(short), logits(short, long)
    return not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4, equal_nan=True)


@contextmanager
def padded(model: Any, rows: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pads texts with what the model inside the block takes for padding.

    A decoder alone looks for a text's last token, by what isn't padding. One that knows no padding
    gets a token for it that none of the texts ends with. Whatever the tokenizer does, padding
    stands on the right, where it moves no position and a decoder doesn't look; but on the left
    where the model takes a batch's last token for each text's (XLNet).

    Args:
        model: A sequence classifier from transformers.
        rows: Token ids of ``b`` texts, the longest of length ``s``; none may be empty.

    Yields:
        Ids ``[b, s]``, and a mask ``[b, s]`` that is 1 where there is text, both on the CPU.
    """
    config = model.config.get_text_config()
    own: int | None = getattr(config, "pad_token_id", None)
    pad = padding_id(model)
    if pad is None:
        last = {ids[-1] for ids in rows}
        pad = next(token for token in range(len(rows) + 1) if token not in last)
    side = "left" if takes_last(model) else "right"
    ids = [torch.tensor(row) for row in rows]
    real = [torch.ones_like(row) for row in ids]
    config.pad_token_id = pad
    try:
        yield (
            pad_sequence(ids, batch_first=True, padding_value=pad, padding_side=side),
            pad_sequence(real, batch_first=True, padding_side=side),
        )
    finally:
        config.pad_token_id = own

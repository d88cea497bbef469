"""The texts of a response's first 1, 2, … tokens."""

from typing import Any

from torch import Tensor

from detox_lightning.models.decoding.decoder import deduplicate
from detox_lightning.models.policy import Policy

HALF_LETTER = "\ufffd"  # what a tokenizer makes of a letter's bytes while some are to come


def prefix_texts(
    policy: Policy,
    tokenizer: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    ids: Tensor,
    mask: Tensor,
    texts: list[str],
) -> list[list[str]]:
    """Decodes the beginnings of ``b`` responses as the policy decodes whole ones.

    While a letter is incomplete, the text is that before it. The last text is the response's own.

    Args:
        policy: The policy.
        tokenizer: The policy's.
        prompt_ids: ``[b, s]``.
        prompt_mask: ``[b, s]``.
        ids: ``[b, t]`` responses.
        mask: ``[b, t]``, True at their real tokens, which come first.
        texts: The ``b`` responses as text.

    Returns:
        For each response as many texts as it has tokens.
    """
    encoded = deduplicate(prompt_ids, prompt_mask)
    stops = policy.stop_strings(tokenizer, encoded)
    ids, lengths = ids.cpu(), mask.sum(dim=1).cpu()
    found: list[list[str]] = [[] for _ in texts]
    for length in range(1, ids.shape[1]):
        rows = (lengths > length).nonzero()[:, 0]
        begun = policy.decode_texts(tokenizer, encoded.select(rows), ids[rows, :length])
        for row, text in zip(rows.tolist(), begun, strict=True):
            text = text.rstrip(HALF_LETTER)
            found[row].append(stops.cut(text) if stops else text)
    return [[*begun, text] for begun, text in zip(found, texts, strict=True)]

"""Generates responses token by token, with the tokens that transformers' ``generate`` gives.

Each distinct prompt is read once, and rows that have ended are dropped. If possible, a static step
replaces the model's own code (see :mod:`.static_step`).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.masks import is_any, response_lengths
from detox_lightning.models.decoding.decoder import CachedDecoder, EncodedPrompts
from detox_lightning.models.decoding.sampling import Choose
from detox_lightning.models.decoding.static_decoder import StaticDecoder
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.decoding.stopping import CHECK_EVERY, StopStrings
from detox_lightning.models.families.base import Family
from detox_lightning.models.special_tokens import end_tokens, padding_token


class DropPolicy(NamedTuple):
    """When rows that have ended are dropped: at which steps, and down to how many rows.

    Checking which rows have ended makes the host wait for a GPU, which costs more than a few
    needless steps. A GPU also captures a step for each number of rows; and with few rows, reading
    the weights takes most of a step.
    """

    interval: int = 1
    min_rows: int = 1


DROP_POLICIES = {"cuda": DropPolicy(8, 32)}


class Decoded(NamedTuple):
    """Responses, and the hidden states that they were predicted from.

    Attributes:
        ids: ``[b, t]`` tokens, without the start token, padded after EOS.
        hidden: ``[b, t, d]`` the decoder's last hidden states, from which each token was predicted;
            0 after a row was dropped.
    """

    ids: Tensor
    hidden: Tensor


@torch.no_grad()
def decode(
    model: Any,
    family: Family,
    prompts: EncodedPrompts,
    choose: Choose,
    limit: int,
    static_steps: StaticSteps | None = None,
    stops: StopStrings | None = None,
    longest: int = 0,
) -> Decoded:
    """Responds to ``b`` prompts until each row has ended or has ``limit`` tokens.

    The generation config of ``model`` names the start, end and padding tokens. Without
    ``static_steps`` every step runs the model's own code. Some tokens may follow one of ``stops``.
    For ``longest`` see :meth:`StaticSteps.take_over`.
    """
    config = model.generation_config
    ends, pad = end_tokens(config), padding_token(config)
    rows = torch.arange(len(prompts.rows), device=prompts.rows.device)
    responses = torch.full((len(rows), limit), pad, device=rows.device)
    live = torch.ones_like(rows, dtype=torch.bool)
    cached, logits, states = family.prefill(model, prompts)
    logits, states = logits[prompts.rows], states[prompts.rows]
    decoder: CachedDecoder | StaticDecoder = cached
    if static_steps is None:
        cached.select(prompts.rows)
    else:
        decoder = static_steps.take_over(cached, prompts.rows, limit, longest)
    del cached  # a static decoder has its own copy of the keys and values
    hidden = states.new_zeros(len(rows), limit, states.shape[1])
    interval, min_rows = DROP_POLICIES.get(rows.device.type, DropPolicy())
    for step in range(limit):
        tokens = choose(logits.float(), rows, step).where(live, pad)
        responses[rows, step], hidden[rows, step] = tokens, states
        live &= ~is_any(tokens, ends)
        if stops and (step + 1) % CHECK_EVERY == 0:
            live &= ~stops.ended(responses[:, : step + 1], rows)
        unfinished = len(rows) if (step + 1) % interval else int(live.sum())
        if unfinished == 0 or step + 1 == limit:
            break
        half = (len(rows) + 1) // 2  # half at a time: each number of rows needs a static step
        if 2 * unfinished <= len(rows) and half >= min_rows:
            kept = live.int().argsort(descending=True, stable=True)[:half]
            decoder.select(kept)
            rows, live, tokens = rows[kept], live[kept], tokens[kept]
        logits, states = decoder(tokens)
    longest = int(response_lengths(responses[:, : step + 1], ends).max())
    return Decoded(responses[:, :longest], hidden[:, :longest])

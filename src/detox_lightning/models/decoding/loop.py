"""Responses from a model's own layers: each prompt is read once, rows that have ended are dropped.

Where it can, a step is recorded once and then played back (see :mod:`.recording`), on a GPU
captured; the tokens are those that transformers' ``generate`` gives.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.masks import is_any, response_lengths
from detox_lightning.models.decoding.decoder import Decoder
from detox_lightning.models.decoding.encoded_prompts import EncodedPrompts
from detox_lightning.models.decoding.recording import Recorder
from detox_lightning.models.decoding.sampling import Choose
from detox_lightning.models.families.base import Family
from detox_lightning.models.special_tokens import end_tokens, padding_token


class Pace(NamedTuple):
    """How a decoder's rows are watched.

    Attributes:
        every: After so many steps it is asked which rows have ended. To ask a GPU is to wait for
            it, which costs more than a few steps for nothing.
        least: Fewer rows than this are not gone on with alone. Each number of rows is captured
            anew; and with few, a GPU's step is mostly the reading of the weights.
    """

    every: int
    least: int


PACES = {"cuda": Pace(8, 32)}
PACE = Pace(1, 1)  # of other devices


class Decoded(NamedTuple):
    """Responses, and what the decoder made of them.

    Attributes:
        ids: ``[b, t]`` tokens, without the start token, padded after EOS.
        hidden: ``[b, t, d]`` its last hidden states, from which each token was predicted; 0 where
            it wasn't asked.
    """

    ids: Tensor
    hidden: Tensor


def decode(
    model: Any,
    family: Family,
    prompts: EncodedPrompts,
    choose: Choose,
    limit: int,
    recorder: Recorder | None = None,
) -> Decoded:
    """Answers prompts token by token, until each row has ended or the limit is reached.

    Args:
        model: From transformers; its generation config names the start, end and padding tokens.
        family: What kind of model it is.
        prompts: What the family's ``encode_prompts`` gave.
        choose: Picks the tokens.
        limit: The longest response, in tokens.
        recorder: Plays steps back; None: every step goes through the model's own code.
    """
    config = model.generation_config
    ends, pad = end_tokens(config), padding_token(config)
    rows = torch.arange(len(prompts.rows), device=prompts.rows.device)
    responses = torch.full((len(rows), limit), pad, device=rows.device)
    live = torch.ones_like(rows, dtype=torch.bool)
    plain, logits, states = family.prefill(model, prompts)
    steps: Decoder = (recorder and recorder.steps(plain, limit)) or plain
    del plain  # recorded steps have a copy of its keys and values
    hidden = states.new_zeros(len(rows), limit, states.shape[1])
    every, least = PACES.get(rows.device.type, PACE)
    for step in range(limit):
        tokens = choose(logits.float(), rows, step).where(live, pad)
        responses[rows, step], hidden[rows, step] = tokens, states
        live &= ~is_any(tokens, ends)
        is_last = step + 1 == limit
        left = len(rows) if (step + 1) % every else int(live.sum())
        if left == 0 or is_last:
            longest = int(response_lengths(responses[:, : step + 1], ends).max())
            return Decoded(responses[:, :longest], hidden[:, :longest])
        half = (len(rows) + 1) // 2  # a half at a time: a recorded step is of a fixed size
        if 2 * left <= len(rows) and half >= least:
            kept = live.int().argsort(descending=True, stable=True)[:half]
            steps.keep(kept)
            rows, live, tokens = rows[kept], live[kept], tokens[kept]
        logits, states = steps(tokens)
    raise AssertionError("unreachable")

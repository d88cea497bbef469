"""Responses from a model's own layers: each prompt is read once, rows that have ended are dropped.

Where it can, a step is recorded once and then played back (see :mod:`.recording`), on a GPU
compiled; the tokens are those that transformers' ``generate`` gives.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from detox_lightning.algorithm.masks import response_lengths
from detox_lightning.models.recording import Recorder
from detox_lightning.models.sampling import Choose
from detox_lightning.models.texts import alike, free_padding


class Pace(NamedTuple):
    """How a decoder's rows are watched.

    Attributes:
        every: After so many steps it is asked which rows have ended. To ask a GPU is to wait for
            it, which costs more than a few steps for nothing.
        least: Fewer rows than this are not gone on with alone. Each number of rows is compiled
            for tens of seconds; and with few, a GPU's step is mostly the reading of the weights.
    """

    every: int
    least: int


PACES = {"cuda": Pace(8, 32)}
PACE = Pace(1, 1)  # of other devices


class Prompts(NamedTuple):
    """Prompts that an encoder has read, equal ones once.

    Attributes:
        hidden: ``[u, s, d]`` the encoder's last hidden states.
        mask: ``[u, s]``, True at real tokens.
        rows: ``[b]`` which of them each row of the batch is.
    """

    hidden: Tensor
    mask: Tensor
    rows: Tensor

    def select(self, rows: Tensor) -> "Prompts":
        """Some rows of the batch."""
        return Prompts(self.hidden, self.mask, self.rows[rows])

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Hidden states ``[b, s, d]`` and mask ``[b, s]`` of each row."""
        return self.hidden.index_select(0, self.rows), self.mask[self.rows]


class Decoded(NamedTuple):
    """Responses, and what the decoder made of them.

    Attributes:
        ids: ``[b, t]`` tokens, without the start token, padded after EOS.
        hidden: ``[b, t, d]`` its last hidden states, from which each token was predicted; 0 where
            it wasn't asked.
    """

    ids: Tensor
    hidden: Tensor


class Steps(Protocol):
    """A decoder under way."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[r, V]`` and last hidden states ``[r, d]`` after these tokens (``[r]``).

        They are good until the next call, which may overwrite them.
        """

    def keep(self, rows: Tensor) -> None:
        """Goes on with some of its rows only."""


def read(model: Any, ids: Tensor, mask: Tensor) -> Prompts:
    """Lets a model's encoder read prompts, equal ones once and those of like length together.

    Args:
        model: From transformers, with an encoder.
        ids: ``[b, s]``.
        mask: ``[b, s]``.

    Returns:
        The prompts, without the columns that are padding to all of them.
    """
    marked = torch.where(mask.bool(), ids, -1)
    distinct, rows = torch.unique(marked[:, filled(mask.bool())], dim=0, return_inverse=True)
    real = distinct.ge(0)
    hidden: Tensor | None = None
    for group in alike(real.sum(dim=1).tolist(), free_padding(model)):
        columns = filled(real[group])
        part = model.get_encoder()(
            input_ids=distinct[group].clamp(min=0)[:, columns],
            attention_mask=real[group][:, columns].long(),
        ).last_hidden_state
        if hidden is None:
            hidden = part.new_zeros(*distinct.shape, part.shape[2])
        hidden[torch.tensor(group)[:, None], columns.nonzero()[:, 0].cpu()] = part
    assert hidden is not None
    return Prompts(hidden, real, rows)


def filled(mask: Tensor) -> Tensor:
    """``[s]``, True at columns with a real token; there is always one, even of empty prompts."""
    columns = mask.any(dim=0)
    columns[0] |= not columns.any()
    return columns


def decode(
    model: Any, prompts: Prompts, choose: Choose, limit: int, recorder: Recorder | None = None
) -> Decoded:
    """Answers prompts token by token, until each row has ended or the limit is reached.

    Args:
        model: From transformers, with encoder and decoder; its generation config names the start,
            end and padding tokens.
        prompts: What :func:`read` gave.
        choose: Picks the tokens.
        limit: The longest response, in tokens.
        recorder: Plays steps back; None: every step goes through the model's own code.
    """
    config = model.generation_config
    eos = _first(config.eos_token_id)
    pad = eos if config.pad_token_id is None else config.pad_token_id
    rows = torch.arange(len(prompts.rows), device=prompts.rows.device)
    responses = torch.full((len(rows), limit), pad, device=rows.device)
    live = torch.ones_like(rows, dtype=torch.bool)
    steps, (logits, states) = begin(model, prompts, config.decoder_start_token_id, limit, recorder)
    hidden = states.new_zeros(len(rows), limit, states.shape[1])
    every, least = PACES.get(rows.device.type, PACE)
    for step in range(limit):
        tokens = choose(logits.float(), rows, step).where(live, pad)
        responses[rows, step], hidden[rows, step] = tokens, states
        live &= tokens != eos
        is_last = step + 1 == limit
        left = len(rows) if (step + 1) % every else int(live.sum())
        if left == 0 or is_last:
            longest = int(response_lengths(responses[:, : step + 1], eos).max())
            return Decoded(responses[:, :longest], hidden[:, :longest])
        half = (len(rows) + 1) // 2  # a half at a time: a recorded step is of a fixed size
        if 2 * left <= len(rows) and half >= least:
            kept = live.int().argsort(descending=True, stable=True)[:half]
            steps.keep(kept)
            rows, live, tokens = rows[kept], live[kept], tokens[kept]
        logits, states = steps(tokens)
    raise AssertionError("unreachable")


def begin(
    model: Any, prompts: Prompts, start: int, limit: int, recorder: Recorder | None
) -> tuple[Steps, tuple[Tensor, Tensor]]:
    """Takes the first step, of equal prompts once.

    Args:
        model: See :func:`decode`.
        prompts: Likewise.
        start: The start token.
        limit: Steps at most.
        recorder: See :func:`decode`.

    Returns:
        The steps that follow, and what the first gave.
    """
    first = PlainSteps(model, prompts.hidden, prompts.mask)
    tokens = torch.full_like(prompts.mask[:, 0], start, dtype=torch.long)
    logits, hidden = first(tokens)
    first.keep(prompts.rows)
    recorded = recorder and recorder.steps(model, first.cache, first.mask, limit)
    return recorded or first, (logits[prompts.rows], hidden[prompts.rows])


class PlainSteps:
    """Steps through the model's own code, with transformers' growing cache."""

    def __init__(self, model: Any, hidden: Tensor, mask: Tensor):
        """Notes what is answered.

        Args:
            model: From transformers.
            hidden: ``[r, s, d]`` what its encoder says of the prompts.
            mask: ``[r, s]``.
        """
        from transformers import DynamicCache, EncoderDecoderCache

        decoder = model.config.get_text_config(decoder=True)
        self.model = model
        self.hidden = hidden
        self.mask = mask.long()
        self.cache = EncoderDecoderCache(DynamicCache(config=decoder), DynamicCache())

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Steps`."""
        from transformers.modeling_outputs import BaseModelOutput

        output = self.model(
            encoder_outputs=BaseModelOutput(self.hidden),
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=True,
        )
        return output.logits[:, -1], output.decoder_hidden_states[-1][:, -1]

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows, each as often as it is named."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        # what it says is in the cache by now: the shape is all that is still looked at
        self.hidden = self.hidden[:1].expand(len(rows), -1, -1)


def _first(tokens: int | list[int]) -> int:
    return tokens[0] if isinstance(tokens, list) else tokens

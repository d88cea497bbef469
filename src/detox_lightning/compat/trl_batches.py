"""From TRL 0.8's lists of tensors to batches, and from the figures of a step to TRL's."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detox_lightning.algorithm.masks import mask_from_lengths, masked_moments, response_lengths
from detox_lightning.algorithm.metrics import UpdateMeter, rollout_metrics
from detox_lightning.algorithm.types import Experience, Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.models.policy import Policy
from detox_lightning.rollout import Responses

# what TRL averages over mini-batches, by the beginning of its name
AVERAGED = {"policy/advantages_": "advantages", "returns/": "returns", "val/": "old_values"}


def check_rows(rows: list[Tensor]) -> None:
    """Raises an InputError if something is no row of tokens."""
    if shapes := [[*row.shape] for row in rows if row.dim() != 1 or not len(row)]:
        raise InputError(f"prompts and responses are rows of tokens, not of shape {shapes[0]}")


def prompts_of(queries: list[Tensor], policy: Policy) -> PromptBatch:
    """Pads prompts ``[s]`` on the family's side."""
    check_rows(queries)
    device, side = policy.base.device, policy.family.padding_side
    ids = pad_sequence([row.to(device) for row in queries], True, padding_side=side)
    real = [torch.ones_like(row, dtype=torch.bool, device=device) for row in queries]
    mask = pad_sequence(real, True, padding_side=side)
    texts, places = [""] * len(ids), torch.arange(len(ids), device=device)
    return PromptBatch(ids, mask, ids, mask, texts, texts, places)


def responses_of(rows: list[Tensor], policy: Policy, exact: bool) -> Responses:
    """Pads responses ``[t]``, which end with their first end token.

    With ``exact`` they go on behind it, and an encoder-decoder's first token is not learned.
    """
    ids = pad_sequence([row.to(policy.base.device) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    if not exact:
        lengths = lengths.minimum(response_lengths(ids, policy.eos_token_ids))
    mask = mask_from_lengths(lengths, ids.shape[1])
    mask[:, 0] &= not (exact and policy.base.config.is_encoder_decoder)
    return Responses(ids, mask, [""] * len(rows))


def stripped(response: Tensor, query: Tensor, policy: Policy, texts: Any, exact: bool) -> Tensor:
    """Takes off a response what is not its own; ``texts`` are pairs of prompts and answers.

    That is the start token of an encoder-decoder, which a slice may lack, and else what a slice of
    one of the texts has of its prompt.
    """
    start = policy.base.generation_config.decoder_start_token_id
    if policy.base.config.is_encoder_decoder:
        begins = response[0] == start
        if exact and not begins:
            raise InputError(
                "exact=True: a response lacks the start token, for which TRL would take its first "
                "token; give all that generate() returned"
            )
        return response[1:] if begins and len(response) > 1 else response
    given, asked = response.tolist(), query.tolist()
    for prompt, answer in () if exact else texts:
        if prompt == asked and (prompt + answer)[-len(given) :] == given:
            return response[-len(answer) :]
    return response


def stats_of(
    rollout: Rollout, experience: Experience, meter: UpdateMeter, rows: list[Tensor], kl_coef: float
) -> dict[str, float]:
    """Gives TRL's figures of a rollout with these rows in its mini-batches; not its arrays."""
    stats = rollout_metrics(rollout, experience, {}, kl_coef)
    batches = [experience.rows(index.to(rollout.scores.device)) for index in rows]
    for name, column in AVERAGED.items():
        moments = [masked_moments(getattr(x, column), x.response_mask) for x in batches]
        mean, variance, count = (torch.stack(x) for x in zip(*moments, strict=True))
        stats[f"ppo/{name}mean"] = float(mean.mean())
        stats[f"ppo/{name}var"] = float((variance * count / (count - 1).clamp(min=1)).mean())
    return stats | meter.metrics(stats["ppo/returns/var"])

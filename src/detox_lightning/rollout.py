"""Policy, reward and prompts make a rollout. No Lightning here."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.kl import Estimator, full_kl, kl_estimate
from detox_lightning.algorithm.masks import is_any, mask_from_lengths, response_lengths, widths
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.models.decoding.draws import Draws
from detox_lightning.models.decoding.encoded_prompts import Prompts
from detox_lightning.models.decoding.sampling import Choose
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import Reward
from detox_lightning.rewards.asking import asked, check_scores

LONGEST = 200  # characters of a response in a message
NO_GRADIENT = 4  # times as many responses fit into a forward pass that keeps no activations


class Noted(NamedTuple):
    """What the policy, or the reference, said of responses. Both float32.

    Attributes:
        logprobs: ``[b, t]`` of the tokens.
        values: ``[b, t]`` value head.
    """

    logprobs: Tensor
    values: Tensor


class Responses(NamedTuple):
    """Sampled responses.

    Attributes:
        ids: ``[b, t]`` tokens, without the prompt and the decoder start token.
        mask: ``[b, t]``, True at real tokens, EOS included.
        texts: The ``b`` responses as text, special tokens stripped; of a model that goes on with
            its prompt, a blank comes first where a new word begins.
        noted: What the policy said of them while it sampled them; None: it has to be asked.
    """

    ids: Tensor
    mask: Tensor
    texts: list[str]
    noted: Noted | None = None

    def has_eos(self, eos_token_ids: Sequence[int]) -> Tensor:
        """``[b]``, True where the response ended by itself."""
        return (is_any(self.ids, eos_token_ids) & self.mask).any(dim=1)


class Samples(NamedTuple):
    """A rollout as people read it.

    Attributes:
        prompts: ``b`` prompts.
        responses: Their responses.
        scores: What the reward says, raw.
        lengths: Tokens of each response, EOS included.
        kl: Of each response, in nats.
    """

    prompts: list[str]
    responses: list[str]
    scores: list[float]
    lengths: list[int]
    kl: list[float]


def respond(
    policy: Policy,
    tokenizer: Any,
    prompts: Prompts,
    choose: Choose,
    limit: int,
    draws: Draws | None = None,
) -> Responses:
    """Lets the policy answer the prompts.

    Args:
        policy: The policy, or the reference inside :meth:`Policy.reference`.
        tokenizer: The policy's.
        prompts: ``b`` of them, as :meth:`Policy.encode_prompts` gave them.
        choose: Picks the tokens; see :meth:`Sampling.choose`.
        limit: The longest response, in tokens.
        draws: What ``choose`` draws with, where log-probabilities are to be noted.
    """
    ids, hidden = policy.generate(prompts, choose, limit)
    lengths = response_lengths(ids, policy.eos_token_ids)
    longest = int(lengths.max())
    ids = ids[:, :longest]
    mask = mask_from_lengths(lengths, longest)
    texts = policy.decode_texts(tokenizer, prompts, ids)
    noted = None
    if draws is not None:
        logprobs = torch.stack(draws.logprobs[:longest], dim=1)
        noted = Noted(logprobs, policy.values(hidden[:, :longest]).detach())
    return Responses(ids, mask, texts, noted)


def score(
    reward: Reward, batch: PromptBatch, responses: Responses, place: str
) -> dict[str, Tensor]:
    """Asks a reward what responses are worth.

    Args:
        reward: The reward.
        batch: ``b`` prompts.
        responses: Their responses.
        place: Where in the run, for the message.

    Returns:
        The reward's parts by name, each ``[b]`` float32, where the responses are.

    Raises:
        TrainingError: If it fails, or one of them, or the total, has another shape.
    """
    # copies, of the texts and of the scores: a reward may change its lists, and keep its tensor
    texts = [*batch.prompts], [*responses.texts], [*batch.references]
    parts = asked(reward, place, lambda: reward.parts(*texts))
    for name, part in parts.items():
        check_scores(name, part, len(responses.texts), place)
    device = responses.mask.device
    parts = {name: part.to(device, torch.float32, copy=True) for name, part in parts.items()}
    check_scores(reward.name, reward.total(parts), len(responses.texts), place)
    return parts


def what_is_not_finite(
    rollout: Rollout, parts: dict[str, Tensor], name: str, texts: list[str]
) -> str | None:
    """Names the first figure of a rollout that is not finite; waits for the device once.

    Args:
        rollout: ``b`` responses.
        parts: What the scores are made of, each ``[b]``, by name.
        name: The reward's.
        texts: The responses.

    Returns:
        None if all are finite.
    """
    scores = {f"the reward {part!r}": x for part, x in parts.items()}
    scores[f"the reward {name!r}"] = rollout.scores
    others = {
        "the policy's log-probability": rollout.old_logprobs,
        "the reference's log-probability": rollout.ref_logprobs,
        "the KL divergence": rollout.kl,
        "the value head": rollout.values,
    }
    tokens = {what: x.where(rollout.response_mask, 0).sum(dim=1) for what, x in others.items()}
    figures = {**scores, **tokens}
    table = torch.stack([x.to(rollout.kl.device, torch.float32) for x in figures.values()]).tolist()
    for what, row in zip(figures, table, strict=True):
        for text, figure in zip(texts, row, strict=True):
            if not math.isfinite(figure):
                shown = f"{text[:LONGEST]}…" if len(text) > LONGEST else text
                return f"{what} gave {figure} for the response {shown!r}"
    return None


@torch.no_grad()
def measure(
    policy: Policy,
    batch: PromptBatch,
    responses: Responses,
    scores: Tensor,
    estimator: Estimator = "k1",
    micro_batch_size: int | None = None,
) -> Rollout:
    """What policy and reference say of sampled responses.

    Args:
        policy: The policy that sampled them.
        batch: ``b`` prompts.
        responses: Their responses.
        scores: ``[b]``.
        estimator: Of the KL divergence.
        micro_batch_size: The update's; in half precision, forward passes are of this size and
            untrimmed, as the update's are, so that the first ratio is 1; None: one pass.
    """
    if estimator == "full":
        now, ref, kl = compare(policy, batch, responses, micro_batch_size)
    else:
        asked = policy, batch, responses.ids, responses.mask
        now = responses.noted or ask(*asked, micro_batch_size)
        more = NO_GRADIENT if policy.is_full_precision else 1
        with policy.reference():
            ref = ask(*asked, micro_batch_size and more * micro_batch_size)
        kl = kl_estimate(now.logprobs, ref.logprobs, estimator)
    return Rollout(
        prompt_ids=batch.prompt_ids,
        prompt_mask=batch.prompt_mask,
        response_ids=responses.ids,
        response_mask=responses.mask,
        old_logprobs=now.logprobs,
        ref_logprobs=ref.logprobs,
        kl=kl,
        values=now.values,
        scores=scores,
    )


@torch.no_grad()
def ask(
    policy: Policy,
    batch: PromptBatch,
    ids: Tensor,
    mask: Tensor,
    size: int | None = None,
    prompts: Prompts | None = None,
) -> Noted:
    """What the policy, or the reference, says of responses.

    In full precision, those of like length are asked for together.

    Args:
        policy: The policy, or the reference inside :meth:`Policy.reference`.
        batch: ``b`` prompts.
        ids: ``[b, t]`` responses.
        mask: ``[b, t]``, True at their real tokens.
        size: Rows of one forward pass; None for all.
        prompts: The prompts as the model has read them; None: it reads them. They are then nobody
            else's, and in half precision rows come out as in the update, to the last bit.

    Returns:
        0 where there is no real token.
    """
    share = prompts is not None
    prompts = prompts or policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    ends = widths(mask) if policy.is_full_precision else mask.sum(dim=1).fill_(ids.shape[1])
    logprobs, values = torch.zeros(2, *ids.shape, device=ids.device, dtype=torch.float32)
    for rows in ends.argsort(descending=True, stable=True).split(size or len(ids)):
        width = max(1, int(ends[rows[0]]))
        given = batch.prompt_ids[rows], batch.prompt_mask[rows], ids[rows, :width]
        said = policy(*given, prompts.select(rows), entropy=False, deduplicate=share)
        logprobs[rows, :width], values[rows, :width] = said.logprobs, said.values
    return Noted(logprobs.where(mask, 0), values.where(mask, 0))


def compare(
    policy: Policy, batch: PromptBatch, responses: Responses, size: int | None = None
) -> tuple[Noted, Noted, Tensor]:
    """What policy and reference say of responses, and how far their distributions are apart.

    Args:
        policy: The policy.
        batch: ``b`` prompts.
        responses: Their responses.
        size: Rows of one forward pass; None for all.

    Returns:
        The policy's, the reference's, and ``[b, t]`` KL divergences over the vocabulary, in nats.
    """
    prompts = policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    with policy.reference():
        ref_prompts = policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    parts = []
    for index in torch.arange(len(responses.ids), device=responses.ids.device).split(
        size or len(responses.ids)
    ):
        rows = batch.prompt_ids[index], batch.prompt_mask[index], responses.ids[index]
        now, logits = policy.with_logits(*rows, prompts.select(index))
        with policy.reference():
            ref, ref_logits = policy.with_logits(*rows, ref_prompts.select(index))
        kl = full_kl(logits, ref_logits)
        parts.append((now.logprobs, now.values, ref.logprobs, ref.values, kl))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Noted(*columns[:2]), Noted(*columns[2:4]), columns[4]

"""Makes a rollout from policy, reward and prompts. No Lightning here."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.kl import Estimator, full_kl, kl_estimate
from detox_lightning.algorithm.masks import is_any, mask_from_lengths, passes, response_lengths
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.draws import TorchDraws
from detox_lightning.models.decoding.sampling import Choose
from detox_lightning.models.policy import Policy
from detox_lightning.models.prefix_texts import prefix_texts
from detox_lightning.models.special_tokens import padding_token
from detox_lightning.rewards import Reward
from detox_lightning.rewards.interface import PREFIXES
from detox_lightning.rewards.reward_errors import check_scores, maker, reward_errors
from detox_lightning.rewards.token_scores import add_up

SHOWN_CHARACTERS = 200  # of a response in a message
NO_GRADIENT = 4  # times as many responses fit into a forward pass that keeps no activations


class TokenStats(NamedTuple):
    """Figures of the policy, or of the reference, for each token of some responses.

    Attributes:
        logprobs: ``[b, t]`` float32 log-probabilities.
        values: ``[b, t]`` float32 value head.
    """

    logprobs: Tensor
    values: Tensor


class Responses(NamedTuple):
    """Sampled responses.

    Attributes:
        ids: ``[b, t]`` tokens, without the prompt and the decoder start token.
        mask: ``[b, t]``, True at real tokens; EOS, or the token that ends a stop string, included.
        texts: The ``b`` responses as text, special tokens and stop strings stripped. Those of a
            decoder-only model begin with a blank where a new word begins.
        stats: The policy's statistics, if they were recorded during sampling; else None.
        stopped: ``[b]``, True where a response ended by a stop string; None: nowhere.
        prefixes: For each response, the texts of its first 1, 2, … tokens; None: nobody asks.
    """

    ids: Tensor
    mask: Tensor
    texts: list[str]
    stats: TokenStats | None = None
    stopped: Tensor | None = None
    prefixes: list[list[str]] | None = None

    def with_prefixes(self, policy: Policy, tokenizer: Any, prompts: PromptBatch) -> "Responses":
        """Returns the same with ``prefixes``."""
        given = prompts.prompt_ids, prompts.prompt_mask, self.ids, self.mask, self.texts
        return self._replace(prefixes=prefix_texts(policy, tokenizer, *given))

    def has_eos(self, eos_token_ids: Sequence[int]) -> Tensor:
        """``[b]``, True where the response ended by itself, by EOS or by a stop string."""
        has_eos = (is_any(self.ids, eos_token_ids) & self.mask).any(dim=1)
        return has_eos if self.stopped is None else has_eos | self.stopped


class Scores(NamedTuple):
    """A reward's scores of some responses.

    Attributes:
        parts: ``[b]`` float32 by name: the terms of the reward.
        total: ``[b]`` float32, the reward.
        tokens: ``[b, t]`` float32, what each token earned of the total; the rest is the last
            token's. None: nothing is known of tokens.
    """

    parts: dict[str, Tensor]
    total: Tensor
    tokens: Tensor | None = None


def sample(
    policy: Policy, tokenizer: Any, prompts: PromptBatch, limit: int, record: bool
) -> Responses:
    """Samples one response of up to ``limit`` tokens to each prompt.

    ``record`` says whether to record log-probabilities and values during sampling.
    """
    draws = TorchDraws()
    choose = policy.sampling.choose(policy.eos_token_ids, draws)
    encoded = policy.encode_prompts(prompts.prompt_ids, prompts.prompt_mask)
    return generate(policy, tokenizer, encoded, choose, limit, draws if record else None)


def generate(
    policy: Policy,
    tokenizer: Any,
    prompts: EncodedPrompts,
    choose: Choose,
    limit: int,
    draws: TorchDraws | None = None,
) -> Responses:
    """Lets the policy, or inside :meth:`Policy.reference` the reference, respond to prompts.

    Args:
        policy: The policy.
        tokenizer: The policy's.
        prompts: ``b`` prompts as this model encoded them.
        choose: Picks the tokens; see :meth:`Sampling.choose`.
        limit: Tokens of the longest response.
        draws: The draws of ``choose``, if log-probabilities and values are to be recorded.
    """
    stops, stopped = policy.stop_strings(tokenizer, prompts), None
    ids, hidden = policy.generate(prompts, choose, limit, stops)
    lengths = response_lengths(ids, policy.eos_token_ids)
    if stops:
        lengths, stopped = stops.limited(ids, lengths)
    longest = int(lengths.max())
    ids, mask = ids[:, :longest], mask_from_lengths(lengths, longest)
    if stops:  # tokens were drawn after a stop string until it was noticed
        ids = ids.where(mask, padding_token(policy.base.generation_config))
    stats = None
    if draws is not None:
        logprobs = torch.stack(draws.logprobs[:longest], dim=1)
        stats = TokenStats(logprobs, policy.values(hidden[:, :longest]).detach())
    texts = policy.decode_texts(tokenizer, prompts, ids)
    return Responses(ids, mask, [*map(stops.cut, texts)] if stops else texts, stats, stopped)


def score(
    reward: Reward,
    prompts: PromptBatch,
    texts: list[str],
    place: str,
    prefixes: list[list[str]] | None = None,
) -> Scores:
    """Has a reward score ``b`` responses; the scores are on the device of the prompts.

    With ``prefixes`` (see :class:`Responses`) a reward that takes them may score tokens. A part's
    token scores are added up. TrainingError, with the ``place`` in the run, if the reward fails, or
    a part or the total hasn't the shape ``[b]`` or, of tokens, ``[b, t]``.
    """
    # Copies of texts and scores: a reward may change its lists and reuse its tensor.
    columns = {name: [*prompts.columns[name]] for name in reward.data_columns}
    shapes, lengths = [[len(texts)]], []
    if prefixes and PREFIXES in reward.columns:
        columns[PREFIXES] = [[*row] for row in prefixes]
        lengths = [*map(len, prefixes)]
        shapes.append([len(texts), max(lengths)])
    with reward_errors(reward, place, "parts"):
        found = dict(reward.parts([*prompts.prompts], [*texts], [*prompts.references], **columns))
    for name, part in found.items():
        check_scores(name, part, place, maker(reward, "parts", name), *shapes)
    device = prompts.prompt_ids.device
    parts = {name: part.to(device, torch.float32, copy=True) for name, part in found.items()}
    return Scores(*add_up(reward, parts, len(texts), lengths, place))


def first_nonfinite(
    rollout: Rollout, scores: Scores, name: str, responses: list[str]
) -> str | None:
    """Names the first figure of a rollout that is not finite; None if all are.

    ``name`` is the reward's, and ``responses`` are texts. The device is waited for once.
    """
    per_token = {
        "the policy's log-probability": rollout.old_logprobs,
        "the reference's log-probability": rollout.ref_logprobs,
        "the KL divergence": rollout.kl,
        "the value head": rollout.values,
    }
    rewards = {**scores.parts, name: scores.total}
    figures = {f"the reward {part!r}": x for part, x in rewards.items()}
    for what, x in per_token.items():
        figures[what] = x.where(rollout.response_mask, 0).sum(dim=1)
    table = torch.stack([x.to(rollout.kl.device, torch.float32) for x in figures.values()]).tolist()
    for what, row in zip(figures, table, strict=True):
        for text, figure in zip(responses, row, strict=True):
            if not math.isfinite(figure):
                cut = f"{text[:SHOWN_CHARACTERS]}…" if len(text) > SHOWN_CHARACTERS else text
                return f"{what} gave {figure} for the response {cut!r}"
    return None


@torch.no_grad()
def measure(
    policy: Policy,
    prompts: PromptBatch,
    responses: Responses,
    scores: Tensor,
    estimator: Estimator = "k1",
    micro_batch_size: int | None = None,
) -> Rollout:
    """Measures responses that a policy sampled: log-probabilities, values, KL from the reference.

    There are ``b`` prompts, responses and scores. A forward pass has ``micro_batch_size`` rows;
    None: all. In half precision, passes have the update's size and width, so that the first ratio
    of new to old probability is 1.
    """
    if estimator == "full":
        now, ref, kl = measure_full_kl(policy, prompts, responses, micro_batch_size)
    else:
        ids, mask = responses.ids, responses.mask
        now = responses.stats or evaluate_tokens(policy, prompts, ids, mask, micro_batch_size)
        more = NO_GRADIENT if policy.is_full_precision else 1
        with policy.reference():
            ref = evaluate_tokens(
                policy, prompts, ids, mask, micro_batch_size and more * micro_batch_size
            )
        kl = kl_estimate(now.logprobs, ref.logprobs, estimator)
    values = now.values
    if policy.critic is not None:
        inputs = prompts.prompt_ids, prompts.prompt_mask, responses.ids, responses.mask
        values = policy.critic.values(*inputs, micro_batch_size)
    return Rollout(
        prompt_ids=prompts.prompt_ids,
        prompt_mask=prompts.prompt_mask,
        response_ids=responses.ids,
        response_mask=responses.mask,
        old_logprobs=now.logprobs,
        ref_logprobs=ref.logprobs,
        kl=kl,
        values=values,
        scores=scores,
        has_eos=responses.has_eos(policy.eos_token_ids),
    )


@torch.no_grad()
def evaluate_tokens(
    policy: Policy,
    batch: PromptBatch,
    ids: Tensor,
    mask: Tensor,
    size: int | None = None,
    prompts: EncodedPrompts | None = None,
) -> TokenStats:
    """Runs the policy, or the reference, over responses.

    In full precision, responses of similar length go through the model together.

    Args:
        policy: The policy, or the reference inside :meth:`Policy.reference`.
        batch: ``b`` prompts.
        ids: ``[b, t]`` responses.
        mask: ``[b, t]``, True at their real tokens; the results are 0 elsewhere.
        size: Rows of one forward pass; None for all.
        prompts: The prompts as the model encoded them; None: they are encoded here, and in half
            precision each row is computed on its own, as in the update, to the last bit.
    """
    deduplicate = prompts is not None
    prompts = prompts or policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    logprobs, values = torch.zeros(2, *ids.shape, device=ids.device, dtype=torch.float32)
    for rows, width in passes(mask, size, policy.is_full_precision):
        output = policy(
            batch.prompt_ids[rows],
            batch.prompt_mask[rows],
            ids[rows, :width],
            prompts.select(rows),
            entropy=False,
            deduplicate=deduplicate,
        )
        logprobs[rows, :width], values[rows, :width] = output.logprobs, output.values
    return TokenStats(logprobs.where(mask, 0), values.where(mask, 0))


def measure_full_kl(
    policy: Policy, batch: PromptBatch, responses: Responses, size: int | None = None
) -> tuple[TokenStats, TokenStats, Tensor]:
    """Runs policy and reference over responses, and compares their whole distributions.

    A forward pass has ``size`` rows; None: all. Returns the policy's statistics, the reference's,
    and ``[b, t]`` KL divergences over the vocabulary, in nats.
    """
    prompts = policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    with policy.reference():
        ref_prompts = policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    passes = []
    all_rows = torch.arange(len(responses.ids), device=responses.ids.device)
    for rows in all_rows.split(size or len(all_rows)):
        inputs = batch.prompt_ids[rows], batch.prompt_mask[rows], responses.ids[rows]
        now, logits = policy.with_logits(*inputs, prompts.select(rows))
        with policy.reference():
            ref, ref_logits = policy.with_logits(*inputs, ref_prompts.select(rows))
        kl = full_kl(logits, ref_logits)
        passes.append((now.logprobs, now.values, ref.logprobs, ref.values, kl))
    columns = [torch.cat(column) for column in zip(*passes, strict=True)]
    return TokenStats(*columns[:2]), TokenStats(*columns[2:4]), columns[4]

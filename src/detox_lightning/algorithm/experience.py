"""From a rollout to what the update learns from: scores, token rewards, advantages."""

from dataclasses import dataclass

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat
from torch import Tensor

from detox_lightning.algorithm.advantages import AdvantageEstimator
from detox_lightning.algorithm.masks import Reduce, alone, whiten
from detox_lightning.algorithm.types import Experience, Rollout
from detox_lightning.errors import InputError


@dataclass(frozen=True)
class ScoreShaping:
    """What happens to scores before they become rewards, and to responses that were cut off.

    Attributes:
        scale: Divide by the running standard deviation.
        normalize: Subtract the running mean, too; needs ``scale``.
        clip: Bound on the absolute score, after scaling; null for none.
        missing_eos_penalty: Subtracted from the score of a response that the length limit cut off.
        mask_truncated_completions: Learn nothing from such a response. Its score still counts in
            the curves, in the advantages of others and in running moments.
        whiten_rewards: Scale each rollout's token rewards to unit variance, keeping their mean.
    """

    scale: bool = False
    normalize: bool = False
    clip: PositiveFloat | None = None
    missing_eos_penalty: NonNegativeFloat = 0.0
    mask_truncated_completions: bool = False
    whiten_rewards: bool = False

    def __post_init__(self) -> None:
        if self.normalize and not self.scale:
            raise InputError("scores.normalize=true needs scores.scale=true")


@dataclass
class RunningMoments:
    """Mean and variance of all scores seen, by Chan's parallel update.

    https://en.wikipedia.org/wiki/Algorithms_for_calculating_variance#Parallel_algorithm

    Attributes:
        count: Scores seen.
        mean: Their mean.
        variance: Their population variance.
    """

    count: float = 0.0
    mean: float = 0.0
    variance: float = 1.0

    @property
    def std(self) -> float:
        """The standard deviation, with Bessel's correction."""
        return float((self.variance * self.count / max(self.count - 1, 1)) ** 0.5)

    def update(self, scores: Tensor, reduce: Reduce = alone) -> None:
        """Adds one rollout's scores (``[b]``) of all ranks."""
        x = scores.double()
        count, total = reduce(torch.stack([torch.ones_like(x).sum(), x.sum()])).tolist()
        mean = total / count
        variance = float(reduce(((x - mean) ** 2).sum())) / count
        delta, seen = mean - self.mean, self.count + count
        spread = self.variance * self.count + variance * count
        self.variance = (spread + delta**2 * self.count * count / seen) / seen
        self.mean += delta * count / seen
        self.count = seen


def shape_scores(scores: Tensor, shaping: ScoreShaping, moments: RunningMoments) -> Tensor:
    """Normalizes, scales and clips the scores ``[b]``, by the moments of all scores so far."""
    if shaping.normalize:
        scores = scores - moments.mean
    if shaping.scale:
        scores = scores / (moments.std + torch.finfo(scores.dtype).eps)
    if shaping.clip is not None:
        scores = scores.clamp(-shaping.clip, shaping.clip)
    return scores


def token_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float, token_scores: Tensor | None = None
) -> Tensor:
    """Computes r_j = -β·kl_j, with the score added at the last real token: ``[b, t]``.

    Scores are ``[b]``, ``kl`` is ``[b, t]`` in nats, and ``kl_coef`` β is the price of a nat in
    units of the score. ``token_scores`` ``[b, t]`` are what each token earned of its response's
    score; then only the rest is added at the last token. The result is 0 outside the mask. A row
    without a real token has no reward.
    """
    position = torch.arange(mask.shape[1], device=mask.device)
    last = (position * mask).amax(dim=1, keepdim=True)
    rewards = -kl_coef * kl + scores[:, None] * (position == last)
    if token_scores is not None:
        earned = torch.where(mask, token_scores, 0)
        rewards = rewards + earned - earned.sum(dim=1, keepdim=True) * (position == last)
    return torch.where(mask, rewards, 0)


def to_experience(
    rollout: Rollout,
    kl_coef: float,
    estimator: AdvantageEstimator,
    shaping: ScoreShaping,
    moments: RunningMoments,
    reduce: Reduce = alone,
    token_scores: Tensor | None = None,
    more: Tensor | None = None,
) -> Experience:
    """Turns scores and KL into token rewards, and those into advantages.

    ``kl_coef`` is β, the price of a nat of KL in units of the score. ``moments`` are those of all
    scores so far; this rollout's scores are added if ``shaping`` scales. ``token_scores`` are what
    each token earned of the raw scores, ``[b, t]``; None: nothing is known of tokens. ``more``,
    ``[b]``, is added to the scores after they are shaped.
    """
    mask = rollout.response_mask
    penalized = rollout.scores - shaping.missing_eos_penalty
    scores = torch.where(rollout.has_eos, rollout.scores, penalized)
    if shaping.scale:
        moments.update(scores, reduce)
    scores = shape_scores(scores, shaping, moments)
    scores = scores if more is None else scores + more
    if token_scores is not None:  # the last token makes up for all else that changes the score
        token_scores = shape_scores(token_scores, ScoreShaping(scale=shaping.scale), moments)

    # r_j = -β·kl_j, plus what token j earned; the rest of the score is added at the last real token
    rewards = token_rewards(scores, rollout.kl, mask, kl_coef, token_scores)
    if shaping.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, reduce=reduce)

    # both are 0 at padding; whitening covers the real tokens of all ranks
    advantages, returns = estimator(rewards, rollout.values, mask, reduce)
    if estimator.whitens:
        advantages = whiten(advantages, mask, reduce=reduce)
    is_masked = shaping.mask_truncated_completions
    return Experience(
        prompt_ids=rollout.prompt_ids,
        prompt_mask=rollout.prompt_mask,
        response_ids=rollout.response_ids,
        response_mask=mask & rollout.has_eos[:, None] if is_masked else mask,
        old_logprobs=rollout.old_logprobs,
        ref_logprobs=rollout.ref_logprobs,
        old_values=torch.where(mask, rollout.values, 0),
        advantages=advantages,
        returns=returns,
    )

"""From what was measured to what the update reads."""

import torch

from detox_lightning.algorithm.advantages import AdvantageEstimator
from detox_lightning.algorithm.masks import Reduce, alone, whiten
from detox_lightning.algorithm.shaping import (
    RunningMoments,
    ScoreShaping,
    penalize_missing_eos,
    shape_scores,
    token_rewards,
)
from detox_lightning.algorithm.types import Experience, Rollout


def judge(
    rollout: Rollout,
    has_eos: torch.Tensor,
    kl_coef: float,
    estimator: AdvantageEstimator,
    shaping: ScoreShaping,
    moments: RunningMoments,
    reduce: Reduce = alone,
) -> Experience:
    """Turns scores and KL into token rewards, and those into advantages.

    Args:
        rollout: ``b`` responses.
        has_eos: ``[b]``, True where the response ended by itself.
        kl_coef: What a nat of KL costs.
        estimator: Of advantages.
        shaping: What happens to the scores first.
        moments: Of the scores so far; takes in this rollout's where ``shaping`` scales.
        reduce: Sum over ranks.
    """
    mask = rollout.response_mask
    scores = penalize_missing_eos(rollout.scores, has_eos, shaping.missing_eos_penalty)
    if shaping.scale:
        moments.update(scores, reduce)
    scores = shape_scores(scores, shaping, moments)
    rewards = token_rewards(scores, rollout.kl, mask, kl_coef)
    if shaping.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, reduce=reduce)
    advantages, returns = estimator(rewards, rollout.values, mask, reduce)
    if estimator.whitens:
        advantages = whiten(advantages, mask, reduce=reduce)
    return Experience(
        prompt_ids=rollout.prompt_ids,
        prompt_mask=rollout.prompt_mask,
        response_ids=rollout.response_ids,
        response_mask=mask,
        old_logprobs=rollout.old_logprobs,
        old_values=torch.where(mask, rollout.values, 0),
        advantages=advantages,
        returns=returns,
    )

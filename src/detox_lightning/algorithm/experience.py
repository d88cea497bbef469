"""Turns a rollout into the experience that the update learns from."""

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


def to_experience(
    rollout: Rollout,
    kl_coef: float,
    estimator: AdvantageEstimator,
    shaping: ScoreShaping,
    moments: RunningMoments,
    reduce: Reduce = alone,
) -> Experience:
    """Turns scores and KL into token rewards, and those into advantages.

    Args:
        rollout: ``b`` responses.
        kl_coef: β, the price of a nat of KL in units of the score.
        estimator: Estimates the advantages.
        shaping: What happens to the scores first.
        moments: Mean and variance of all scores so far; they are updated with this rollout's
            where ``shaping`` scales.
        reduce: Sum over ranks.
    """
    mask = rollout.response_mask
    scores = penalize_missing_eos(rollout.scores, rollout.has_eos, shaping.missing_eos_penalty)
    if shaping.scale:
        moments.update(scores, reduce)
    scores = shape_scores(scores, shaping, moments)

    # r_j = -β·kl_j, and the score is added at the last real token
    rewards = token_rewards(scores, rollout.kl, mask, kl_coef)
    if shaping.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, reduce=reduce)

    # 0 at padding: an estimator's output, and whitening over all ranks' real tokens
    advantages, returns = estimator(rewards, rollout.values, mask, reduce)
    if estimator.whitens:
        advantages = whiten(advantages, mask, reduce=reduce)
    return Experience(
        prompt_ids=rollout.prompt_ids,
        prompt_mask=rollout.prompt_mask,
        response_ids=rollout.response_ids,
        response_mask=mask,
        old_logprobs=rollout.old_logprobs,
        ref_logprobs=rollout.ref_logprobs,
        old_values=torch.where(mask, rollout.values, 0),
        advantages=advantages,
        returns=returns,
    )

"""From scores and KL to what the update reads."""

import pytest
import torch

from algorithm.ranks import on_ranks
from detox_lightning.algorithm.advantages import GAE, GRPO, AdvantageEstimator, Reinforce
from detox_lightning.algorithm.experience import (
    RunningMoments,
    ScoreShaping,
    to_experience,
    token_rewards,
)
from detox_lightning.algorithm.losses import token_weights
from detox_lightning.algorithm.masks import mask_from_lengths, whiten
from detox_lightning.algorithm.types import Experience, Rollout

LENGTHS = torch.tensor([4, 1, 3, 2, 4, 4])
HAS_EOS = torch.tensor([True, True, False, True, False, True])
KL_COEF = 0.2


def rollout() -> Rollout:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    ids = torch.arange(24).view(6, 4)
    mask = mask_from_lengths(LENGTHS, 4)
    per_token = [drawn(6, 4).masked_fill(~mask, torch.nan) for _ in range(4)]
    return Rollout(ids, mask, ids, mask, *per_token, drawn(6), HAS_EOS)


def judged(
    rollout: Rollout,
    shaping: ScoreShaping,
    estimator: AdvantageEstimator,
    reduce=lambda x: x,
    tokens: torch.Tensor | None = None,
) -> Experience:
    return to_experience(rollout, KL_COEF, estimator, shaping, RunningMoments(), reduce, tokens)


def test_the_plain_way() -> None:
    given = rollout()
    experience = judged(given, ScoreShaping(), GAE(gamma=0.9, gae_lambda=0.7))
    mask = given.response_mask
    rewards = token_rewards(given.scores, given.kl, mask, KL_COEF)
    advantages, returns = GAE(0.9, 0.7)(rewards, given.values, mask)
    assert torch.equal(experience.advantages, whiten(advantages, mask))
    assert torch.equal(experience.returns, returns)
    assert torch.equal(experience.old_values, torch.where(mask, given.values, 0))
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask"):
        assert getattr(experience, name) is getattr(given, name)
    for name in ("old_logprobs", "ref_logprobs"):
        assert getattr(experience, name) is getattr(given, name)


@pytest.mark.parametrize(
    "shaping",
    [
        ScoreShaping(),
        ScoreShaping(scale=True, normalize=True, clip=0.5, missing_eos_penalty=0.5),
    ],
    ids=["plain", "shaped"],
)
def test_token_scores_move_rewards_and_leave_their_sums(shaping: ScoreShaping) -> None:
    """Scaled as the score is; the last token bears mean, bound and penalty."""
    given, gae = rollout(), GAE(1.0, 1.0)
    tokens = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    plain, moved = (judged(given, shaping, gae, tokens=x).returns for x in (None, tokens))
    assert torch.allclose(plain[:, 0], moved[:, 0], atol=1e-5)
    penalized = given.scores - shaping.missing_eos_penalty * ~HAS_EOS
    unit = penalized.std() if shaping.scale else 1.0
    # at lambda 1, a return is the sum of the rewards from there on
    earned = (tokens.where(given.response_mask, 0).cumsum(dim=1) - tokens)[:, 1:]
    real = given.response_mask[:, 1:]
    assert torch.allclose((plain - moved)[:, 1:][real], (earned / unit)[real], atol=1e-5)


def test_only_a_cut_response_is_penalized() -> None:
    """With gamma and lambda 1, the return of the first token is the response's reward."""
    before, after = (
        judged(rollout(), ScoreShaping(missing_eos_penalty=penalty), GAE(1.0, 1.0)).returns[:, 0]
        for penalty in (0.0, 0.5)
    )
    assert torch.allclose(after - before, torch.where(HAS_EOS, 0.0, -0.5), atol=1e-6)


def test_a_cut_response_is_compared_but_not_learned_from() -> None:
    given, group = rollout(), GRPO(k=3)
    plain, masked = (
        judged(given, ScoreShaping(mask_truncated_completions=masked), group)
        for masked in (False, True)
    )
    assert plain.response_mask.sum(dim=1).tolist() == [4, 1, 3, 2, 4, 4]
    assert masked.response_mask.sum(dim=1).tolist() == [4, 1, 0, 2, 0, 4]
    assert torch.equal(masked.advantages, plain.advantages)  # its score counts
    weighed = [
        (weights.sum(dim=1).tolist(), divisor.item())
        for average in ("tokens", "responses", "constant")
        for weights, divisor in [token_weights(masked.response_mask, average, 4)]
    ]
    assert weighed == [
        ([4, 1, 0, 2, 0, 4], 11),
        ([1, 1, 0, 1, 0, 1], 6),
        ([1, 0.25, 0, 0.5, 0, 1], 6),
    ]


def test_moments_take_in_this_rollouts_raw_scores() -> None:
    moments = RunningMoments()
    shaping = ScoreShaping(scale=True, clip=0.1)
    for seen in (6, 12):
        to_experience(rollout(), KL_COEF, GAE(), shaping, moments)
        assert moments.count == seen
    assert moments.mean == pytest.approx(float(rollout().scores.mean()))
    to_experience(rollout(), KL_COEF, GAE(), ScoreShaping(), moments)
    assert moments.count == 12  # nobody asks for them


@pytest.mark.parametrize(
    "shaping",
    [
        ScoreShaping(),
        ScoreShaping(scale=True, normalize=True, missing_eos_penalty=0.5),
        ScoreShaping(whiten_rewards=True),
    ],
    ids=["plain", "scaled", "whitened"],
)
@pytest.mark.parametrize("estimator", [GAE(), Reinforce()], ids=["GAE", "Reinforce"])
@pytest.mark.parametrize("first", [2, 5])
def test_two_ranks_estimate_as_one(
    shaping: ScoreShaping, estimator: AdvantageEstimator, first: int
) -> None:
    given = rollout()
    parts = [
        (Rollout(*(field[rows] for field in given)), shaping, estimator)
        for rows in (slice(None, first), slice(first, None))
    ]
    ranks = on_ranks(judged, parts)
    whole = judged(given, shaping, estimator)
    for name in ("advantages", "returns"):
        both = torch.cat([getattr(rank, name) for rank in ranks])
        assert torch.allclose(both, getattr(whole, name), atol=1e-6)

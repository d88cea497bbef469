"""Which estimators' mean is the gradient of the exact objective, and which way the others err."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import (
    GAE,
    GRPO,
    RLOO,
    AdvantageEstimator,
    Reinforce,
    TokenRLOO,
)
from detox_lightning.algorithm.experience import RunningMoments, ScoreShaping, to_experience
from detox_lightning.algorithm.group_losses import CISPOLoss, DrGRPOLoss, GRPOLoss, GSPOLoss
from detox_lightning.algorithm.masks import alone, whiten, widths
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.ppo.learner import Learner, UpdateOptions
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.ppo.ranks import Ranks
from numerics import EXACT, in_float64
from proof.biases import (
    biased_rows,
    estimated,
    loss_term,
    penalty,
    penalty_rows,
    without_baseline,
)
from proof.gradients import (
    Laboratory,
    Stepped,
    compare,
    moved,
    plain_loss,
    stepped,
    unwhitened,
)
from proof.world import KINDS, Kind, kl, make_world

BETA = 0.3
SAMPLINGS = {
    "plain": Sampling(3),
    "hot, at least 1 word": Sampling(3, min_new_tokens=1, temperature=1.5),
    "cold, at least 2 words": Sampling(3, min_new_tokens=2, temperature=0.7),
}
QUICK = ("t5", "hot, at least 1 word"), ("llama", "plain")
ADAPTER = LoRA(r=8, alpha=16, dropout=0.0)


def laboratory(
    folder: Path, kind: Kind, sampling: Sampling, adapter: bool = False
) -> Iterator[Laboratory]:
    world = make_world(folder, kind, sampling)
    policy = moved(world.policy(ADAPTER if adapter else None, value_head=False))
    with in_float64(policy):
        yield Laboratory(world, policy, BETA)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((kind, name), id=f"{kind}, {name}", marks=[] if quick else pytest.mark.slow)
        for kind in KINDS
        for name in SAMPLINGS
        for quick in [(kind, name) in QUICK]
    ],
)
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    """A world with all weights trained: every token's logits are kept."""
    kind, name = request.param
    yield from laboratory(tmp_path_factory.mktemp("world"), kind, SAMPLINGS[name])


@pytest.fixture(scope="module", params=KINDS)
def plain(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    yield from laboratory(tmp_path_factory.mktemp("world"), request.param, Sampling(2))


@pytest.fixture(params=KINDS)
def adapted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Laboratory]:
    """An adapter's gradients come from the head's own backward pass, without logits."""
    yield from laboratory(tmp_path, request.param, SAMPLINGS["hot, at least 1 word"], True)


@pytest.fixture(params=KINDS)
def stepped_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stepped]:
    world = make_world(tmp_path, request.param, Sampling(2))
    policy, copy = (moved(world.policy(value_head=False)) for _ in range(2))
    with in_float64(policy, copy):
        yield stepped(Laboratory(world, policy, BETA), copy)


@pytest.fixture
def one_token(tmp_path: Path) -> Iterator[Laboratory]:
    """Responses of one token, where gradients of penalties have short formulas."""
    yield from laboratory(tmp_path, "t5", Sampling(1))


# -- estimators whose mean is the gradient


EXACT_ESTIMATORS: list[tuple[AdvantageEstimator, int, float]] = [
    (RLOO(2), 2, 1.0),
    (TokenRLOO(2), 2, 1.0),
    (without_baseline(), 1, 1.0),
    (GRPO(2, scale=False), 2, 1 / 2),  # the own reward is part of the mean: (k - 1)/k
    (unwhitened(Reinforce()), 2, 1 / 2),  # the same, of n responses in the batch: (n - 1)/n
]


@pytest.mark.parametrize(
    ("advantage", "k", "size"),
    EXACT_ESTIMATORS,
    ids=["RLOO", "TokenRLOO", "none", "GRPO", "Reinforce"],
)
def test_the_mean_is_the_gradient_of_j(
    lab: Laboratory, advantage: AdvantageEstimator, k: int, size: float
) -> None:
    """With the KL of each token in the rewards, EOS, the first token, and unequal lengths."""
    found = estimated(lab, advantage, k=k, factor=1 / size)
    assert found.error < EXACT


@pytest.mark.quick(1)
def test_with_an_adapter(adapted: Laboratory) -> None:
    assert adapted.policy.avoids_logits
    assert estimated(adapted, without_baseline(), k=1).error < EXACT


@pytest.mark.parametrize(
    ("advantage", "size"),
    [(RLOO(3), 1.0), (GRPO(3, scale=False), 2 / 3), (unwhitened(Reinforce()), 2 / 3)],
    ids=["RLOO", "GRPO", "Reinforce"],
)
@pytest.mark.slow
def test_three_responses(plain: Laboratory, advantage: AdvantageEstimator, size: float) -> None:
    assert estimated(plain, advantage, k=3, factor=1 / size).error < EXACT


@pytest.mark.quick(3)
@pytest.mark.parametrize("gae_lambda", [1.0, 0.5, 0.0])
def test_gae_with_exact_values(plain: Laboratory, gae_lambda: float) -> None:
    """Whatever λ is; with λ 1 the values may be anything, and with λ below 1 they may not."""
    rollout = plain.rollout()
    advantage = unwhitened(GAE(1.0, gae_lambda))
    right = rollout._replace(values=plain.values(rollout))
    assert estimated(plain, advantage, rollout=right, k=1).error < EXACT
    wrong = rollout._replace(values=right.values + 1.0 + 0.1 * torch.arange(2))
    error = estimated(plain, advantage, rollout=wrong, k=1).error
    assert error < EXACT if gae_lambda == 1 else error > 0.05


@pytest.mark.quick(1)
def test_a_penalty_for_a_missing_eos_is_part_of_the_reward(plain: Laboratory) -> None:
    shaping = ScoreShaping(missing_eos_penalty=0.7)
    found = plain.carried(plain.coefficients(RLOO(2), plain_loss(), 2, shaping=shaping))
    cut = ~plain.rollout().has_eos.view_as(plain.world.rewards)
    assert cut.any()
    assert compare(found, plain.exact(plain.world.rewards - 0.7 * cut)).error < EXACT


@pytest.mark.quick(1)
def test_losses_that_have_the_same_first_gradient(plain: Laboratory) -> None:
    """Clips hold nothing back while the ratio is 1."""

    def gradient(loss: object) -> Tensor:
        return plain.coefficients(RLOO(2), loss, 2)

    constant = gradient(plain_loss())
    for loss in (DrGRPOLoss(), plain_loss(clip_range=0.01, dual_clip=1.5)):
        torch.testing.assert_close(gradient(loss), constant, atol=EXACT, rtol=0)
    tokens = gradient(plain_loss(average="tokens"))
    torch.testing.assert_close(gradient(CISPOLoss()), tokens, atol=EXACT, rtol=0)
    responses = gradient(plain_loss(average="responses"))
    for loss in (GRPOLoss(kl_coef=0.0), GSPOLoss()):
        torch.testing.assert_close(gradient(loss), responses, atol=EXACT, rtol=0)


# -- averages, scales, values and samplers that change the direction


def test_a_mean_over_a_response_divides_its_gradient_by_its_length(plain: Laboratory) -> None:
    """So a good response is raised, and a bad one lowered, the less the longer it is."""
    constant = plain.coefficients(RLOO(2), plain_loss(), 2)
    responses = plain.coefficients(RLOO(2), plain_loss(average="responses"), 2)
    lengths = plain.world.lengths[None, :, None]
    torch.testing.assert_close(responses * lengths, constant, atol=EXACT, rtol=0)


@pytest.mark.quick(1)
def test_a_mean_over_a_batch_s_tokens_weakens_long_responses(plain: Laboratory) -> None:
    """The own length is in the divisor: without a baseline the share falls as a length grows."""
    constant = plain.coefficients(without_baseline(), plain_loss(), 2)
    tokens = plain.coefficients(without_baseline(), plain_loss(average="tokens"), 2)
    share = (tokens / constant)[:, :, 0]
    (short, long) = (share[:, plain.world.lengths == length] for length in (1, 2))
    assert bool((short.amin(dim=1) > long.amax(dim=1)).all())


def test_grpo_s_scale_keeps_only_who_wins(plain: Laboratory) -> None:
    """Of two responses, the better one gets 1/√2, however much better it is."""
    gradients = [
        plain.coefficients(GRPO(2), plain_loss(), 2, rollout, beta=0.0)
        for rollout in (plain.rollout(), larger_rewards(plain, 1000.0))
    ]
    # all but what is nearly equal is worth the same at either scale
    torch.testing.assert_close(*gradients, atol=0.01 * float(gradients[0].abs().max()), rtol=0)


def larger_rewards(lab: Laboratory, factor: float) -> object:
    rollout = lab.rollout()
    return rollout._replace(scores=factor * rollout.scores)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5])
def test_with_values_of_0_a_token_learns_less_the_more_follow_it(
    plain: Laboratory, gae_lambda: float
) -> None:
    """By λ a token: where values are 0, A of token j is λ^(T - j)·R. With λ 0, only the last."""
    whole, steps = (
        plain.coefficients(unwhitened(GAE(1.0, x)), plain_loss(), 1, beta=0.0)
        for x in (1.0, gae_lambda)
    )
    later = plain.world.lengths[:, None] - 1 - torch.arange(plain.world.mask.shape[1])
    assert whole.abs().amax(dim=(0, 1)).min() > 0
    expected = whole * gae_lambda ** later.clamp(min=0)
    torch.testing.assert_close(steps, expected, atol=EXACT, rtol=0)


def test_whitening_keeps_who_wins_and_lets_the_shorter_learn_more() -> None:
    """Of two responses of m and n tokens, the better one gets √(n/m), the other -√(m/n).

    With totals d and -d, the mean over tokens is d(m - n)/(m + n), and the variance 4d²mn/(m + n)².
    """
    mask = torch.tensor([[True, False, False], [True, True, True]])
    for gap in (0.3, 30.0, -30.0):
        rewards = torch.zeros(2, 3, dtype=torch.float64)
        rewards[0, 0] = gap
        advantages, _ = Reinforce()(rewards, rewards, mask)
        found = whiten(advantages, mask) * (4 / 3) ** 0.5  # without Bessel's correction
        expected = math.copysign(1, gap) * torch.tensor([3**0.5, -(3**-0.5)], dtype=torch.float64)
        torch.testing.assert_close(found[:, 0], expected, atol=1e-6, rtol=0)


def test_of_a_masked_response_only_its_own_steps_are_missing(plain: Laboratory) -> None:
    """So nothing makes a cut response less likely, and the others learn as they would anyway."""
    cut = ScoreShaping(mask_truncated_completions=True)
    ends = plain.rollout().has_eos.view_as(plain.world.rewards)
    assert not ends.all()
    whole = plain.coefficients(RLOO(2), plain_loss(), 2)
    masked = plain.coefficients(RLOO(2), plain_loss(), 2, shaping=cut)
    torch.testing.assert_close(masked, whole * ends[:, :, None], atol=EXACT, rtol=0)


def test_a_narrower_sampler_favours_what_it_samples(plain: Laboratory) -> None:
    """Even a reward that is the same for all responses raises their probability."""
    rollout = plain.rollout()
    same = rollout._replace(scores=torch.ones_like(rollout.scores))
    sampled_from = plain.truncated_logprobs(top_k=0, top_p=0.5)
    narrow = replace(plain, sampled_from=sampled_from)
    options = {"rollout": same, "beta": 0.0}
    unbiased = plain.carried(plain.coefficients(without_baseline(), plain_loss(), 1, **options))
    biased = narrow.carried(narrow.coefficients(without_baseline(), plain_loss(), 1, **options))
    torch.testing.assert_close(unbiased, torch.zeros_like(unbiased), atol=EXACT, rtol=0)
    now = plain.token_logprobs().sum(dim=2).exp()
    kept = plain.gradient(now.where(sampled_from.isfinite(), 0).sum())
    assert biased @ kept > 0.1 * biased.norm() * kept.norm()


@pytest.mark.slow
def test_how_far_the_others_are(plain: Laboratory) -> None:
    """Each keeps a part of the direction, and none of them all of it."""
    for row in biased_rows(plain):
        assert row.found.error > 1e-3, row.name
        assert row.found.cosine < 1 - 1e-6, row.name


@pytest.mark.quick(1)
def test_after_a_step_a_clip_holds_back_what_went_along(stepped_on: Stepped) -> None:
    """It takes away what still points along the step, the more the narrower it is."""
    found = [
        stepped_on.after.carried(
            stepped_on.after.coefficients(
                RLOO(2), plain_loss(clip_range=clip), 2, stepped_on.before.rollout(), beta=0.0
            )
        )
        for clip in (1e9, 0.2, 0.05)
    ]
    free, wide, narrow = (float(gradient @ stepped_on.step) for gradient in found)
    assert free > wide > narrow


# -- penalties


@pytest.mark.quick(1)
def test_k1_is_the_one_whose_mean_is_the_kl_s_gradient(plain: Laboratory) -> None:
    """The others are good estimates of the KL's value, and no estimates of its gradient."""
    k1, *others, in_loss = (row.found for row in penalty_rows(plain))
    assert k1.error < EXACT
    assert all(found.error > 0.3 for found in others)
    assert 0.01 < in_loss.error < 1
    assert in_loss.cosine > 0.5


@pytest.mark.parametrize("estimator", ["k1", "full", "k3", "k2", "loss"])
def test_what_penalties_of_one_token_descend(one_token: Laboratory, estimator: str) -> None:
    """In the rewards, a penalty f(d) descends E[f], but for the part E[f'(d) ∇log π].

    That part is 0 for k1 alone. ``full`` is the same for all tokens and descends nothing, and k2
    and k3 descend what is of the third order near the reference. In the loss, the part is all
    there is: k3 descends the KL of the reference from the policy.
    """
    with torch.no_grad(), one_token.policy.reference():
        reference = one_token.token_logprobs().sum(dim=2)
    now = one_token.token_logprobs().sum(dim=2)
    forward, reverse = kl(now, reference), kl(reference, now)
    k2 = (now.exp() * (now - reference) ** 2 / 2).sum(dim=1).mean()
    descended = {
        "k1": forward,
        "full": 0 * forward,
        "k3": forward - reverse,
        "k2": k2 - forward,
        "loss": reverse,
    }[estimator]
    exact = -BETA * one_token.gradient(descended)
    assert (exact.norm() > 0) == (estimator != "full")
    found = loss_term(one_token) if estimator == "loss" else penalty(one_token, estimator)
    torch.testing.assert_close(found, exact, atol=EXACT, rtol=0)


def test_abs_lowers_what_was_lowered_already(one_token: Laboratory) -> None:
    """k1 pays for such a token, whose probability is below the reference's; abs charges for it."""
    rollouts = {kind: one_token.rollout(kind) for kind in ("k1", "abs")}
    lowered = rollouts["k1"].kl[:, 0].view(len(one_token.world.rewards), -1) < 0
    steps = {
        kind: one_token.coefficients(
            without_baseline(),
            plain_loss(),
            1,
            rollout._replace(scores=torch.zeros_like(rollout.scores)),
        )[:, :, 0]
        for kind, rollout in rollouts.items()
    }
    assert lowered.any()
    assert bool((steps["k1"][lowered] > 0).all())
    assert bool((steps["abs"] < 0).all())


# -- what is compared is what training does


@pytest.mark.quick(1)
def test_the_learner_steps_along_these_gradients(plain: Laboratory) -> None:
    """On a batch of all pairs, split into micro-batches."""
    rollout = plain.rollout()
    shaping, loss = ScoreShaping(), plain_loss()
    experience = to_experience(rollout, BETA, without_baseline(), shaping, RunningMoments())
    weights = plain.trained
    learner = Learner(
        plain.policy,
        torch.optim.SGD(weights, lr=1.0),
        UpdateOptions(loss, 1, len(rollout.scores), 2, None, 10.0, None),
        Ranks(1, 0, alone, nullcontext),
        lambda total: total.backward(),
        lambda *_: None,
        MicroBatches(7),
    )
    rows = torch.arange(len(rollout.scores))
    learner.gradient(list(experience.batches(rows, 7, widths(rollout.response_mask))))
    found = torch.cat([weight.grad.flatten() for weight in weights])
    learner.optimizer.zero_grad()
    steps = experience.advantages.view(*plain.world.rewards.shape, -1)
    expected = -plain.carried(steps) / (len(rollout.scores) * 2)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)

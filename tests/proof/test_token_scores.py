"""Scores of tokens, in a world where the best policy and the gradient are known exactly."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import GAE, RLOO, AdvantageEstimator, TokenRLOO
from detox_lightning.algorithm.experience import (
    RunningMoments,
    ScoreShaping,
    to_experience,
    token_rewards,
)
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.types import Rollout
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.policy import Policy
from detox_lightning.modules import PPOModule
from detox_lightning.rewards import FunctionReward
from detox_lightning.rollout import score
from detox_lightning.stages.optimization import Schedule
from numerics import EXACT, in_float64
from proof.world import (
    KINDS,
    World,
    chosen,
    figures,
    kl,
    make_world,
    optimum,
    small_tokenizer,
    words,
)
from toys import make_trainer

BETA = 0.5
WORTH = {"a": 1.0, "b": -0.5, "c": 0.25, "": 0.125}


def worth(prompts: list[str], prefixes: list[list[str]]) -> list[list[float]]:
    """What each token is worth: its word, more if it is new, and less the later it comes."""
    return [
        [_worth(prompt, place, words(text).split()) for place, text in enumerate(texts)]
        for prompt, texts in zip(prompts, prefixes, strict=True)
    ]


def _worth(prompt: str, place: int, said: list[str]) -> float:
    last = said[-1] if said else ""
    is_new = said.count(last) == 1 and last not in prompt
    return (WORTH[last] + is_new) / 2**place


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp(request.param), request.param)


class Exact(NamedTuple):
    """All prompts with all responses, ``[p·n, …]``, and a policy that has left its reference."""

    policy: Policy
    rollout: Rollout
    tokens: Tensor


def earned(world: World, policy: Policy) -> Tensor:
    """``[p·n, t]`` what tokens are worth; the reward sees their texts, as it does in a run."""
    prompts, responses = world.pairs()
    prefixes = responses.with_prefixes(policy, small_tokenizer(), prompts).prefixes
    tokens = score(FunctionReward(worth), prompts, responses.texts, "here", prefixes).tokens
    assert tokens is not None
    return tokens.double()


@pytest.fixture
def exact(world: World) -> Any:
    """In float64."""
    policy = world.policy()
    with in_float64(policy):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        tokens = earned(world, policy)
        rollout = world.rollout(policy)._replace(scores=tokens.sum(dim=1))
        yield Exact(policy, rollout, tokens)


def rows(world: World, x: Tensor) -> Tensor:
    """``[p·n, …]`` by prompt and response."""
    return x.view(*world.rewards.shape, *x.shape[1:])


def gradient(policy: Policy, objective: Tensor) -> Tensor:
    parameters = [x for x in policy.model.parameters() if x.requires_grad]
    found = torch.autograd.grad(objective, parameters, allow_unused=True)
    return torch.cat([x.flatten() for x in found if x is not None])


def true_gradient(world: World, exact: Exact) -> Tensor:
    """Of J, whose rewards are the sums over tokens."""
    reference = world.reference_logprobs(exact.policy)
    totals = rows(world, exact.tokens.sum(dim=1))
    return gradient(
        exact.policy, figures(world.logprobs(exact.policy), reference, totals, BETA).objective
    )


def exact_values(world: World, exact: Exact) -> Tensor:
    """``[p·n, t]`` what is to come from each token on, on average, given the tokens before it."""
    mask = rows(world, exact.rollout.response_mask)
    rewards = token_rewards(
        exact.rollout.scores, exact.rollout.kl, exact.rollout.response_mask, BETA, exact.tokens
    )
    to_come = rows(world, rewards.flip(1).cumsum(1).flip(1))
    p = rows(world, exact.rollout.old_logprobs.sum(dim=1)).exp()
    values = torch.zeros_like(to_come)
    for j in range(mask.shape[2]):
        before = world.prefixes[:, j - 1] if j else torch.zeros(len(world.ids), dtype=torch.long)
        same = ((before[:, None] == before) & mask[0, :, j]).to(p.dtype)
        values[:, :, j] = (p * to_come[:, :, j]) @ same.T / (p @ same.T).clamp(min=1e-300)
    return values.flatten(0, 1).where(exact.rollout.response_mask, 0)


def estimated(exact: Exact, rollout: Rollout, tokens: Tensor, by: AdvantageEstimator) -> Tensor:
    """The advantages that the package computes, ``[b, t]``."""
    shaping, moments = ScoreShaping(), RunningMoments()
    experience = to_experience(rollout, BETA, by, shaping, moments, token_scores=tokens)
    return experience.advantages


@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_gae_with_exact_values_estimates_the_exact_gradient(
    world: World, exact: Exact, gae_lambda: float
) -> None:
    """Its mean over all responses; at lambda 0, a token's own reward must be in the right place."""
    rollout = exact.rollout._replace(values=exact_values(world, exact))
    gae = GAE(1.0, gae_lambda)
    gae.whitens = False  # it only scales
    advantages = rows(world, estimated(exact, rollout, exact.tokens, gae))
    assert_same_gradient(world, exact, advantages)


@pytest.mark.parametrize("estimator", [RLOO(2), TokenRLOO(2)])
def test_leave_one_out_estimates_the_exact_gradient(
    world: World, exact: Exact, estimator: AdvantageEstimator
) -> None:
    """Its mean over all pairs of responses to a prompt, by their probabilities."""
    p, n = world.rewards.shape
    first, second = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    pairs = torch.stack([first, second], dim=1).flatten()
    index = (torch.arange(p)[:, None] * n + pairs).flatten()
    found = estimated(exact, chosen(exact.rollout, index), exact.tokens[index], estimator)
    weights = rows(world, exact.rollout.old_logprobs.sum(dim=1)).exp()
    # of each pair, what the first response learns, averaged over the second
    firsts = found.view(p, n, n, 2, -1)[:, :, :, 0]
    assert_same_gradient(world, exact, (firsts * weights[:, None, :, None]).sum(dim=2))


def assert_same_gradient(world: World, exact: Exact, advantages: Tensor) -> None:
    """``advantages`` ``[p, n, t]`` of all responses, weighted by their probabilities."""
    logprobs = world.token_logprobs(exact.policy)
    p = logprobs.detach().sum(dim=2).exp()
    surrogate = (p[:, :, None] * advantages * logprobs).sum(dim=(1, 2)).mean()
    ours, truth = gradient(exact.policy, surrogate), true_gradient(world, exact)
    assert truth.norm() > 0.1
    torch.testing.assert_close(ours, truth, atol=EXACT, rtol=0)


@pytest.mark.slow
def test_a_run_comes_near_the_best_policy(tiny_classifier: str, tmp_path: Path) -> None:
    """π* ∝ π_ref·exp(Σ_j r_j/β), which the run's own rollouts approach."""
    world = make_world(tmp_path, "llama")
    torch.manual_seed(0)
    module = PPOModule(
        str(world.folder),
        worth,
        lora=None,
        sampling=world.sampling,
        advantage=RLOO(k=4),
        ppo_epochs=2,
        mini_batch_size=64,
        kl=KLPenalty(coef=BETA, target=None),
        optimizer=lambda params: torch.optim.Adam(params, lr=5e-3),
        evaluation=EvaluationPlan(toxicity_model=tiny_classifier),
        schedule=Schedule("cosine"),
        seed=0,
    )
    make_trainer(tmp_path, max_epochs=60).fit(module, world.loader(repeats=8))
    totals = rows(world, earned(world, module.policy).sum(dim=1))
    with torch.no_grad():
        reference = world.reference_logprobs(module.policy).double()
        now = world.logprobs(module.policy).double()
    best, highest = optimum(reference, totals, BETA)
    before, after = (figures(x, reference, totals, BETA).objective for x in (reference, now))
    assert (after - before) / (highest - before) > 0.95
    assert kl(now, best) < 0.08

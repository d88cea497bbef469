"""Expected gradients: over all batches that can be sampled, weighted by their exact probabilities.

A batch is one prompt with ``k`` responses. The package's own functions make token rewards,
advantages and the loss of each batch; the gradient of the loss in the tokens' log-probabilities,
added up over batches, is then carried into the model by one backward pass. It stands beside the
gradient of the exact objective, which autograd takes through the model's logits.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import AdvantageEstimator
from detox_lightning.algorithm.experience import RunningMoments, ScoreShaping, to_experience
from detox_lightning.algorithm.kl import Estimator
from detox_lightning.algorithm.losses import PolicyLoss, PPOLoss, token_weights
from detox_lightning.algorithm.types import Rollout
from detox_lightning.models.decoding.sampling import truncated
from detox_lightning.models.policy import Policy
from proof.world import World, chosen, figures, kl

PLAIN = ScoreShaping()


class Comparison(NamedTuple):
    """An estimated gradient beside the exact one.

    Attributes:
        cosine: Of the angle between them.
        size: The estimate's part along the exact gradient, in units of the exact gradient.
        error: The norm of the difference, in units of the exact gradient.
    """

    cosine: float
    size: float
    error: float


@dataclass(frozen=True)
class Laboratory:
    """A policy that has moved from its reference, in an enumerable world; all in float64.

    Attributes:
        world: Where responses come from.
        policy: The policy; its reference is another.
        beta: The price of a nat of KL.
        sampled_from: ``[p, n]`` log-probabilities that batches are drawn by; None: the policy's.
        measured: The rollout of all pairs, if it is not the policy's of now.
    """

    world: World
    policy: Policy
    beta: float
    sampled_from: Tensor | None = None
    measured: dict[Estimator, Rollout] = field(default_factory=dict)

    def rollout(self, estimator: Estimator = "k1") -> Rollout:
        """All pairs as the package measured them, once."""
        if estimator not in self.measured:
            self.measured[estimator] = self.world.rollout(self.policy, estimator)
        return self.measured[estimator]

    def token_logprobs(self) -> Tensor:
        """``[p, n, t]`` from the model's logits, with a gradient."""
        prompts, responses = self.world.pairs()
        inputs = prompts.prompt_ids, prompts.prompt_mask, responses.ids
        logprobs = self.policy.with_logits(*inputs)[0].logprobs
        return torch.where(responses.mask, logprobs, 0).view(*self.world.rewards.shape, -1)

    @property
    def trained(self) -> list[Tensor]:
        """The policy's trained weights, without a value head's."""
        return [x for x in self.policy.model.parameters() if x.requires_grad]

    def gradient(self, scalar: Tensor) -> Tensor:
        """The gradient of a number in all trained weights, as one vector."""
        found = torch.autograd.grad(scalar, self.trained, allow_unused=True, materialize_grads=True)
        return torch.cat([x.flatten() for x in found])

    def exact(self, rewards: Tensor | None = None, beta: float | None = None) -> Tensor:
        """The gradient of J, by default with the world's rewards and this β."""
        rewards = self.world.rewards if rewards is None else rewards
        beta = self.beta if beta is None else beta
        with torch.no_grad(), self.policy.reference():
            reference = self.token_logprobs().sum(dim=2)
        now = self.token_logprobs().sum(dim=2)
        return self.gradient(figures(now, reference, rewards, beta).objective)

    def coefficients(
        self,
        advantage: AdvantageEstimator,
        loss: PolicyLoss,
        k: int,
        rollout: Rollout | None = None,
        shaping: ScoreShaping = PLAIN,
        beta: float | None = None,
    ) -> Tensor:
        """``[p, n, t]`` by which an expected step of the loss raises each log-probability.

        A loss whose average is a constant is multiplied by that constant.
        """
        beta = self.beta if beta is None else beta
        rollout = rollout or self.rollout()
        p, n = self.world.rewards.shape
        prompts, responses = self.world.pairs()
        with torch.no_grad():
            inputs = prompts.prompt_ids, prompts.prompt_mask, responses.ids
            now = self.policy(*inputs, entropy=False).logprobs
        longest = self.world.sampling.limits[1]
        units = longest if loss.average == "constant" else 1

        def one_batch(rows: Tensor) -> Tensor:
            part = chosen(rollout, rows)
            experience = to_experience(part, beta, advantage, shaping, RunningMoments())
            share = token_weights(experience.response_mask, loss.average, longest)

            def total(logprobs: Tensor) -> Tensor:
                values = part.values  # the value head's part of the loss has no gradient here
                sums = loss(logprobs, values, torch.zeros_like(values), experience, share.weights)
                return loss.total(sums.terms) / share.divisor

            return -units * torch.func.grad(total)(now[rows])

        tuples = torch.tensor(list(product(range(n), repeat=k)))
        drawn = rollout.old_logprobs.sum(dim=1).view(p, n)
        if self.sampled_from is not None:
            drawn = self.sampled_from
        expected = torch.zeros_like(now)
        for prompt in range(p):
            weights = drawn[prompt, tuples].sum(dim=1).exp()
            rows = tuples + prompt * n
            steps = torch.vmap(one_batch)(rows) * weights[:, None, None]
            expected.index_add_(0, rows.flatten(), steps.flatten(0, 1))
        return expected.view(p, n, -1) / p

    def carried(self, coefficients: Tensor) -> Tensor:
        """The gradient in the weights of steps in log-probabilities (``[p, n, t]``)."""
        return self.gradient((coefficients * self.world.token_logprobs(self.policy)).sum())

    def values(self, rollout: Rollout, beta: float | None = None) -> Tensor:
        """``[p·n, t]`` what is expected from each token on, given the tokens before it."""
        beta = self.beta if beta is None else beta
        world = self.world
        p, n = world.rewards.shape
        probability = rollout.old_logprobs.sum(dim=1).exp().view(p, n)
        rewards = -beta * torch.where(rollout.response_mask, rollout.kl, 0).view(p, n, -1)
        from_here = rewards.flip(2).cumsum(2).flip(2) + world.rewards[:, :, None]
        found = torch.zeros_like(from_here)
        before = torch.zeros(n, dtype=torch.long)
        for j in range(rewards.shape[2]):
            shape = p, int(before.max()) + 1
            mass = probability.new_zeros(shape).index_add_(1, before, probability)
            worth = probability.new_zeros(shape).index_add_(
                1, before, probability * from_here[:, :, j]
            )
            found[:, :, j] = (worth / mass)[:, before]
            before = world.prefixes[:, j]
        return torch.where(world.mask, found, 0).flatten(0, 1)

    def truncated_logprobs(self, top_k: int, top_p: float) -> Tensor:
        """``[p, n]`` responses as a narrower sampler draws them."""
        prompts, responses = self.world.pairs()
        with torch.no_grad():
            inputs = prompts.prompt_ids, prompts.prompt_mask, responses.ids
            logits = self.policy.with_logits(*inputs)[1].flatten(0, 1)
        scores, tokens = truncated(logits, top_k, top_p)
        narrow = torch.full_like(logits, -torch.inf).scatter(1, tokens, scores).log_softmax(dim=1)
        chosen_ = narrow.gather(1, responses.ids.flatten()[:, None]).view_as(responses.ids)
        return torch.where(responses.mask, chosen_, 0).sum(dim=1).view(self.world.rewards.shape)


def compare(estimate: Tensor, exact: Tensor) -> Comparison:
    """Compares two gradients."""
    along = float(estimate @ exact / (exact @ exact))
    cosine = float(torch.cosine_similarity(estimate, exact, dim=0))
    return Comparison(cosine, along, float((estimate - exact).norm() / exact.norm()))


def moved(policy: Policy, size: float = 0.1, seed: int = 0) -> Policy:
    """Moves all trained weights by random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight += size * noise.to(weight.dtype)
    return policy


def unwhitened(advantage: AdvantageEstimator) -> AdvantageEstimator:
    """The estimator itself, whose advantages keep their scale."""
    advantage.whitens = False
    return advantage


def plain_loss(**options: object) -> PPOLoss:
    """PPO's loss without a value's part, divided by a constant."""
    return PPOLoss(**{"vf_coef": 0.0, "average": "constant", **options})


class Stepped(NamedTuple):
    """A step along the gradient of E[r], whose rollout was sampled before it.

    Attributes:
        before: Where responses were sampled.
        after: The policy behind the step, which learns from these responses.
        step: The step, as one vector.
    """

    before: Laboratory
    after: Laboratory
    step: Tensor


def stepped(lab: Laboratory, copy: Policy, nats: float = 0.02) -> Stepped:
    """Moves a ``copy`` of the policy until its KL from the policy is just below ``nats``."""
    lab.rollout()
    gradient, weights = lab.exact(beta=0.0), lab.trained
    before = lab.world.logprobs(lab.policy).detach()
    size = 1.0
    while True:
        step = size * gradient / gradient.norm()
        parts = step.split([weight.numel() for weight in weights])
        after = Laboratory(lab.world, copy, lab.beta)
        with torch.no_grad():
            for ours, weight, part in zip(after.trained, weights, parts, strict=True):
                ours.copy_(weight + part.view_as(weight))
            if kl(before, lab.world.logprobs(copy)) < nats:
                return Stepped(lab, after, step)
        size *= 0.7

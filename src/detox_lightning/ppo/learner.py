"""The update: epochs × mini-batches × micro-batches of one rollout. No Lightning here."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from detox_lightning.algorithm.losses import LossSums, PolicyLoss, token_weights
from detox_lightning.algorithm.masks import widths
from detox_lightning.algorithm.metrics import MiniBatchMeans, UpdateMeter, token_statistics
from detox_lightning.algorithm.types import Experience
from detox_lightning.models.light_adapters import light_adapters
from detox_lightning.models.policy import Policy
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.ppo.ranks import Ranks


class UpdateOptions(NamedTuple):
    """How a rollout is learned from.

    Attributes:
        loss: The loss that the update minimizes.
        epochs: Passes over the rollout.
        mini_batch_size: Responses of an optimizer step, on each rank.
        longest: Tokens of the longest response that may be sampled.
        max_grad_norm: Bound on the gradient's norm; None for none.
        ratio_threshold: A mini-batch whose mean ratio is above this is skipped.
        early_stop_kl: No further epoch begins once an epoch's last mini-batch has a mean KL from
            the rollout's policy above 1.5 times this many nats a token; None for never.
    """

    loss: PolicyLoss
    epochs: int
    mini_batch_size: int
    longest: int
    max_grad_norm: float | None
    ratio_threshold: float
    early_stop_kl: float | None


@dataclass
class Learner:
    """Updates the policy on rollouts.

    Attributes:
        policy: The model that learns.
        optimizer: Steps its trainable parameters.
        options: How a rollout is learned from.
        ranks: The processes that learn together.
        backward: Computes gradients of a loss, as the trainer wants it done.
        leave_out: Called with a description and the rows of a mini-batch that is left out because
            it is not finite. It may raise.
        micro_batches: Responses of one forward pass.
    """

    policy: Policy
    optimizer: Any
    options: UpdateOptions
    ranks: Ranks
    backward: Callable[[Tensor], None]
    leave_out: Callable[[str, Tensor], None]
    micro_batches: MicroBatches

    def learn(self, experience: Experience, orders: Iterable[Tensor], place: str) -> UpdateMeter:
        """Goes over a rollout once for each order.

        Whether to leave a mini-batch out, to stop early or to give up is decided by numbers that
        are equal on all ranks. They are read once a mini-batch, before its step.

        Args:
            experience: ``b`` responses.
            orders: A permutation ``[b]`` of the rows for each epoch, on the CPU.
            place: Where in the run, for messages.
        """
        with light_adapters(self.policy):
            return self._learn(experience, orders, place)

    def _learn(self, experience: Experience, orders: Iterable[Tensor], place: str) -> UpdateMeter:
        meter = UpdateMeter(self.options.loss)
        ends = widths(experience.response_mask).cpu().int()
        if not self.policy.is_full_precision:  # another width than the rollout's rounds differently
            ends.fill_(experience.response_mask.shape[1])
        for order in orders:
            for rows in order.split(self.options.mini_batch_size):

                def gradient(size: int, rows: Tensor = rows) -> MiniBatchMeans:
                    self.optimizer.zero_grad()
                    return self.gradient(list(experience.batches(rows, size, ends)))

                means = self.micro_batches.retry_with_half(gradient, place, self.ranks.number == 1)
                loss, norm = self.options.loss.total(means.terms), means.grad_norm
                is_finite, ratio = math.isfinite(loss + norm), means.statistics["policy/ratio"]
                if not is_finite:
                    self.leave_out(f"the loss is {loss}, the gradient's norm {norm}", rows)
                if not is_finite or ratio == 0:  # 0: there is no token to learn from
                    meter.skipped += 1
                    continue
                is_too_far = ratio > self.options.ratio_threshold
                if not is_too_far:
                    self.optimizer.step()
                meter.add(means, is_too_far)
            moved = means.statistics["policy/policykl"]
            if self.options.early_stop_kl and moved > 1.5 * self.options.early_stop_kl:
                break
        self.optimizer.zero_grad()
        return meter

    def gradient(self, micro_batches: list[Experience]) -> MiniBatchMeans:
        """Accumulates a mini-batch's gradient over micro-batches and ranks, and clips it.

        The loss is Σ weights·loss / Σ divisor, both sums over all micro-batches and ranks.

        Args:
            micro_batches: The mini-batch's rows, in batches of one forward pass each.

        Returns:
            Means over all ranks. The device is waited for once, to read them.
        """
        masks = [rows.response_mask for rows in micro_batches]
        averages = [
            token_weights(mask, self.options.loss.average, self.options.longest) for mask in masks
        ]
        tokens = torch.stack([mask.sum() for mask in masks]).sum()
        units = torch.stack([share.divisor for share in averages]).sum()
        units, tokens = self.ranks.sum(torch.stack([units, tokens])).clamp(min=1)
        # DDP averages gradients over ranks: times the number of ranks, that is their sum.
        scale = self.ranks.number / units
        totals: Any = 0.0
        for number, (rows, share) in enumerate(zip(micro_batches, averages, strict=True), 1):
            # gradients travel between ranks with the last micro-batch only
            with nullcontext() if number == len(micro_batches) else self.ranks.unsynced():
                sums = self._backward(rows, share.weights, scale)
            figures = [*sums.terms.values(), *sums.statistics.values()]
            totals = totals + torch.stack(figures).detach()
        trainable = [p for p in self.policy.parameters() if p.requires_grad]
        if self.policy.is_held:  # without a gradient, no optimizer touches a parameter or its state
            for parameter in self.policy.model.parameters():
                parameter.grad = None
        norm = clip_grad_norm_(trainable, self.options.max_grad_norm or math.inf)
        number_of_terms = len(sums.terms)
        divisors = torch.stack([units] * number_of_terms + [tokens] * len(sums.statistics))
        *means, grad_norm = torch.cat([self.ranks.sum(totals) / divisors, norm[None]]).tolist()
        return MiniBatchMeans(
            dict(zip(sums.terms, means[:number_of_terms], strict=True)),
            dict(zip(sums.statistics, means[number_of_terms:], strict=True)),
            grad_norm,
        )

    def _backward(self, rows: Experience, weights: Tensor, scale: Tensor) -> LossSums:
        """Adds a micro-batch's gradient to the mini-batch's; returns the micro-batch's sums."""
        loss, inputs = self.options.loss, (rows.prompt_ids, rows.prompt_mask, rows.response_ids)
        learns_entropy = loss.coefficients.get("entropy", 0.0) != 0
        logprobs, values, entropy = self.policy(*inputs, entropy_gradient=learns_entropy)
        if self.policy.critic is not None:
            values = self.policy.critic(*inputs)
        sums = loss(logprobs, values, entropy, rows, weights)
        total = loss.total(sums.terms)
        if self.policy.is_held:  # DDP waits for a gradient of all that learns
            held = [p.sum() for p in self.policy.model.parameters() if p.requires_grad]
            total = loss.coefficients["value"] * sums.terms["value"] + 0 * torch.stack(held).sum()
        self.backward(total * scale)
        statistics = token_statistics(logprobs, values, entropy, rows)
        return LossSums(sums.terms, {**statistics, **sums.statistics})

"""The update of PPO: epochs × mini-batches × micro-batches of one rollout."""

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from detox_lightning.algorithm.losses import LossTerms, ppo_loss, total_loss
from detox_lightning.algorithm.masks import widths
from detox_lightning.algorithm.metrics import UpdateMeter
from detox_lightning.algorithm.types import Experience
from detox_lightning.errors import TrainingError
from detox_lightning.modules.optimization import trainable_parameters

if TYPE_CHECKING:
    from detox_lightning.modules.ppo import PPOModule


class Reading:
    """Numbers on their way from the device, asked for early so that it never runs out of work."""

    def __init__(self, numbers: Tensor):
        """Begins to fetch them.

        Args:
            numbers: ``[n]``, the result of work that may still go on.
        """
        self.numbers = numbers.detach().to("cpu", non_blocking=True)
        self.event: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self.event = torch.cuda.Event()
            self.event.record()

    @property
    def arrived(self) -> bool:
        """Whether they are there."""
        return self.event is None or self.event.query()

    def read(self) -> list[float]:
        """The numbers; waits for them, but for no work that was given to the device later."""
        if self.event is not None:
            self.event.synchronize()
        return list(self.numbers.tolist())


def update(module: "PPOModule", experience: Experience) -> UpdateMeter:
    """Takes the clipped steps that a rollout is good for.

    What decides the way (skipping a mini-batch, stopping early, giving up) is the same number on
    every rank. A GPU isn't waited for: losses are known before their backward pass is through.

    Args:
        module: Its policy learns, by its optimizer.
        experience: ``b`` judged responses.

    Raises:
        TrainingError: If a loss or a gradient is not finite. No step is taken with such a loss; a
            gradient's norm may be known only after the step.
    """
    optimizer: Any = module.optimizers()
    seen: list[tuple[LossTerms[float], Reading, bool]] = []
    ends = torch.tensor(Reading(widths(experience.response_mask)).read()).int()
    if not module.policy.is_full_precision:  # rounding is then another with every width
        ends.fill_(experience.response_mask.shape[1])
    for epoch in range(module.ppo_epochs):
        order = module.shuffle(epoch, len(ends))
        for rows in order.split(module.mini_batch_size):
            optimizer.zero_grad()
            micro_batches = list(experience.batches(rows, module.micro_batch_size, ends))
            reading, norm = backward(module, micro_batches)
            means: LossTerms[float] = LossTerms(*reading.read())
            check_finite(module, means, norm.read()[0] if norm.arrived else 0.0)
            skipped = means.ratio > module.ratio_threshold
            if not skipped:
                optimizer.step()
            seen.append((means, norm, skipped))
        if module.early_stop_kl and means.policykl > 1.5 * module.early_stop_kl:
            break
    optimizer.zero_grad()
    meter = UpdateMeter(module.loss)
    for means, norm, skipped in seen:
        check_finite(module, means, norm.read()[0])
        meter.add(means, norm.read()[0], skipped)
    return meter


def backward(module: "PPOModule", micro_batches: list[Experience]) -> tuple[Reading, Reading]:
    """Accumulates a mini-batch's gradient over micro-batches and ranks, and clips it.

    Args:
        module: Whose gradient it is.
        micro_batches: ``mini_batch_size`` rows, cut up.

    Returns:
        :class:`LossTerms` as means over all ranks' tokens, and the gradient's norm before clipping.
    """
    count = torch.stack([batch.response_mask.sum() for batch in micro_batches]).sum()
    tokens = module.sum(count).clamp(min=1)
    # the strategy averages gradients over ranks; the loss is a mean over all ranks' tokens
    scale = module.trainer.world_size / tokens
    sums = torch.zeros(len(LossTerms._fields), device=module.device, dtype=torch.float32)
    for number, micro_batch in enumerate(micro_batches, start=1):
        last = number == len(micro_batches)
        with gradient_sync(module, last):
            output = module.policy(
                micro_batch.prompt_ids,
                micro_batch.prompt_mask,
                micro_batch.response_ids,
                entropy_gradient=module.loss.ent_coef > 0,
            )
            terms = ppo_loss(
                output.logprobs, output.values, output.entropy, micro_batch, module.loss
            )
            sums += torch.stack(terms).detach()
            if last:  # before the backward pass, which goes on while the numbers are read
                reading = Reading(module.sum(sums) / tokens)
            module.manual_backward(total_loss(terms, module.loss) * scale)
    norm = clip_grad_norm_(trainable_parameters(module), module.max_grad_norm or math.inf)
    return reading, Reading(norm[None])


def gradient_sync(module: "PPOModule", now: bool) -> contextlib.AbstractContextManager[None]:
    """Lets gradients travel between ranks only with a mini-batch's last micro-batch.

    Args:
        module: Whose gradients they are.
        now: Whether this is the last.
    """
    block = getattr(module.trainer.strategy, "block_backward_sync", None)
    return contextlib.nullcontext() if now or block is None else block()


def check_finite(module: "PPOModule", means: LossTerms[float], grad_norm: float) -> None:
    """Stops training before a step spoils the weights.

    Raises:
        TrainingError: If loss or gradient is not finite.
    """
    loss = total_loss(means, module.loss)
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    error = TrainingError(
        f"rollout {module.rollouts}: the loss is {loss}, the gradient's norm {grad_norm}. Likely "
        "causes: too high a learning rate (model.optimizer.lr), no gradient clipping "
        "(model.max_grad_norm), scores far from 0 (model.scores.scale, model.scores.clip), or half "
        "precision. The last checkpoint is untouched."
    )
    # the loss is a mean over all ranks; a norm is noticed by some sooner than by others
    error.by_all = not math.isfinite(loss)
    raise error

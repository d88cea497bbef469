"""The update of PPO: epochs × mini-batches × micro-batches of one rollout."""

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grad_norm_

from detox_lightning.algorithm.losses import LossTerms, ppo_loss, total_loss
from detox_lightning.algorithm.metrics import UpdateMeter
from detox_lightning.algorithm.types import Experience
from detox_lightning.errors import TrainingError
from detox_lightning.modules.optimization import trainable_parameters

if TYPE_CHECKING:
    from detox_lightning.modules.ppo import PPOModule


def update(module: "PPOModule", experience: Experience) -> UpdateMeter:
    """Takes the clipped steps that a rollout is good for.

    What decides the way (skipping a mini-batch, stopping early, giving up) is the same number on
    every rank.

    Args:
        module: Its policy learns, by its optimizer.
        experience: ``b`` judged responses.

    Raises:
        TrainingError: If a loss or a gradient is not finite; no step is taken with it.
    """
    optimizer: Any = module.optimizers()
    meter = UpdateMeter(module.loss)
    for epoch in range(module.ppo_epochs):
        order = module.shuffle(epoch, len(experience.returns))
        for minibatch in experience.batches(order, module.mini_batch_size):
            optimizer.zero_grad()
            means, grad_norm = backward(module, minibatch)
            check_finite(module, means, grad_norm)
            skipped = means.ratio > module.ratio_threshold
            if not skipped:
                optimizer.step()
            meter.add(means, grad_norm, skipped)
        if module.early_stop_kl and means.policykl > 1.5 * module.early_stop_kl:
            break
    optimizer.zero_grad()
    return meter


def backward(module: "PPOModule", minibatch: Experience) -> tuple[LossTerms[float], float]:
    """Accumulates a mini-batch's gradient over micro-batches and ranks, and clips it.

    Args:
        module: Whose gradient it is.
        minibatch: ``mini_batch_size`` rows.

    Returns:
        Means over all ranks' tokens, as plain numbers, and the gradient's norm before clipping.
        They are read together: one wait for the device a mini-batch.
    """
    tokens = module.sum(minibatch.response_mask.sum()).clamp(min=1)
    # the strategy averages gradients over ranks; the loss is a mean over all ranks' tokens
    scale = module.trainer.world_size / tokens
    sums = torch.zeros(len(LossTerms._fields), device=module.device, dtype=torch.float32)
    rows = torch.arange(len(minibatch.returns), device=module.device)
    micro_batches = list(minibatch.batches(rows, module.micro_batch_size))
    for number, micro_batch in enumerate(micro_batches, start=1):
        with gradient_sync(module, number == len(micro_batches)):
            output = module.policy(
                micro_batch.prompt_ids,
                micro_batch.prompt_mask,
                micro_batch.response_ids,
                entropy_gradient=module.loss.ent_coef > 0,
            )
            terms = ppo_loss(
                output.logprobs, output.values, output.entropy, micro_batch, module.loss
            )
            module.manual_backward(total_loss(terms, module.loss) * scale)
        sums += torch.stack(terms).detach()
    norm = clip_grad_norm_(trainable_parameters(module), module.max_grad_norm or math.inf)
    numbers = torch.cat([module.sum(sums) / tokens, norm[None]]).tolist()
    return LossTerms(*numbers[:-1]), numbers[-1]


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
    raise TrainingError(
        f"rollout {module.rollouts}: the loss is {loss}, the gradient's norm {grad_norm}. Likely "
        "causes: too high a learning rate (model.optimizer.lr), no gradient clipping "
        "(model.max_grad_norm), scores far from 0 (model.scores.scale, model.scores.clip), or half "
        "precision. No step was taken on this mini-batch; the last checkpoint is untouched."
    )

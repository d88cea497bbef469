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
from detox_lightning.stages.faults import OF_PPO
from detox_lightning.stages.optimization import trainable_parameters

if TYPE_CHECKING:
    from detox_lightning.ppo.module import PPOModule


def update(module: "PPOModule", experience: Experience) -> UpdateMeter:
    """Takes the clipped steps that a rollout is good for.

    What decides the way (leaving a mini-batch out, stopping early, giving up) is the same number on
    every rank, read once a mini-batch, before its step.

    Args:
        module: Its policy learns, by its optimizer.
        experience: ``b`` judged responses.

    Raises:
        TrainingError: If too many losses or gradients were not finite.
    """
    optimizer: Any = module.optimizers()
    meter = UpdateMeter(module.loss)
    ends = widths(experience.response_mask).cpu().int()
    if not module.policy.is_full_precision:  # rounding is then another with every width
        ends.fill_(experience.response_mask.shape[1])
    alone = module.trainer.world_size == 1
    for epoch in range(module.ppo_epochs):
        order = module.shuffle(epoch, len(ends))
        for rows in order.split(module.mini_batch_size):

            def gradient(size: int, rows: Tensor = rows) -> tuple[LossTerms[float], float]:
                optimizer.zero_grad()
                return backward(module, list(experience.batches(rows, size, ends)))

            means, norm = module.micro_batches.attempt(gradient, module.place, alone)
            loss = total_loss(means, module.loss)
            if not math.isfinite(loss + norm):
                what = f"the loss is {loss}, the gradient's norm {norm}"
                module.faults.leave_out(what, OF_PPO, rows)
                meter.skipped += 1
                continue
            too_far = means.ratio > module.ratio_threshold
            if not too_far:
                optimizer.step()
            meter.add(means, norm, too_far)
        if module.early_stop_kl and means.policykl > 1.5 * module.early_stop_kl:
            break
    optimizer.zero_grad()
    return meter


def backward(
    module: "PPOModule", micro_batches: list[Experience]
) -> tuple[LossTerms[float], float]:
    """Accumulates a mini-batch's gradient over micro-batches and ranks, and clips it.

    Args:
        module: Whose gradient it is.
        micro_batches: ``mini_batch_size`` rows, cut up.

    Returns:
        Means over all ranks' tokens, and the gradient's norm before clipping. The device is waited
        for once, to read them.
    """
    count = torch.stack([batch.response_mask.sum() for batch in micro_batches]).sum()
    tokens = module.sum(count).clamp(min=1)
    # the strategy averages gradients over ranks; the loss is a mean over all ranks' tokens
    scale = module.trainer.world_size / tokens
    sums = torch.zeros(len(LossTerms._fields), device=module.device, dtype=torch.float32)
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
            sums += torch.stack(terms).detach()
            module.manual_backward(total_loss(terms, module.loss) * scale)
    norm = clip_grad_norm_(trainable_parameters(module), module.max_grad_norm or math.inf)
    *means, norm = torch.cat([module.sum(sums) / tokens, norm[None]]).tolist()
    return LossTerms(*means), norm


def gradient_sync(module: "PPOModule", now: bool) -> contextlib.AbstractContextManager[None]:
    """Lets gradients travel between ranks only with a mini-batch's last micro-batch.

    Args:
        module: Whose gradients they are.
        now: Whether this is the last.
    """
    block = getattr(module.trainer.strategy, "block_backward_sync", None)
    return contextlib.nullcontext() if now or block is None else block()

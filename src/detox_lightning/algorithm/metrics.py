"""Metrics of a rollout and of its update."""

from typing import NamedTuple

import torch
from torch import Tensor

from detox_lightning.algorithm.losses import PolicyLoss, log_ratio
from detox_lightning.algorithm.masks import Reduce, alone, masked_sum
from detox_lightning.algorithm.types import Experience, Rollout

EXACT = torch.float64
CONSTRAINT, CONSTRAINT_STD = "objective/constraint", "objective/constraint_std"


def rollout_metrics(
    rollout: Rollout,
    experience: Experience,
    parts: dict[str, Tensor],
    kl_coef: float,
    reduce: Reduce = alone,
    k: int = 1,
    measured: Tensor | None = None,
) -> dict[str, float]:
    """Metrics of a rollout over all ranks; one collective.

    They have TRL's names if the meaning is the same. KL and entropy are in nats. ``parts`` are the
    scores of each reward, ``[b]``, by its name, ``kl_coef`` is that of this rollout, ``k`` counts a
    prompt's responses, and ``measured``, ``[b]``, is what a constraint limits.
    """
    mask, has_eos = rollout.response_mask, rollout.has_eos
    scores = rollout.scores.to(EXACT)
    returns, values = experience.returns.to(EXACT), experience.old_values.to(EXACT)
    others, same = _mode_collapse(rollout)
    # sums, by what they are divided by
    over_responses = {
        "objective/kl": masked_sum(rollout.kl, mask),
        "objective/entropy": -masked_sum(rollout.old_logprobs, mask),
        "objective/scores_mean": scores.sum(),
        "objective/eos_rate": has_eos.sum(),
        "objective/empty_rate": (has_eos & (mask.sum(dim=1) == 1)).sum(),
        "tokens/queries_len_mean": rollout.prompt_mask.sum(),
        "tokens/responses_len_mean": mask.sum(),
        **{f"rewards/{name}": part.sum() for name, part in parts.items()},
        **_optional(scores, k, measured),
    }
    over_tokens = {
        "objective/kl_per_token": masked_sum(rollout.kl, mask),
        "ppo/returns/mean": masked_sum(returns, mask),
        "ppo/val/mean": masked_sum(values, mask),
    }
    squares = {
        "scores": (scores**2).sum(),
        "returns": masked_sum(returns**2, mask),
        "values": masked_sum(values**2, mask),
    }
    counts = {"responses": mask.new_ones(len(mask)).sum(), "others": others, "same": same}
    sums = {**over_responses, **over_tokens, **squares, **counts, "tokens": mask.sum()}
    found = [x.to(scores.device, EXACT, non_blocking=True) for x in sums.values()]
    stacked = reduce(torch.stack(found))
    s = dict(zip(sums, stacked.tolist(), strict=True))
    b, tokens = s["responses"], max(s["tokens"], 1)
    return {
        **{name: s[name] / b for name in over_responses},
        **{name: s[name] / tokens for name in over_tokens},
        "objective/kl_coef": kl_coef,
        "objective/scores_std": _variance(s["objective/scores_mean"], s["scores"], b) ** 0.5,
        "objective/same_response": s["same"] / max(s["others"], 1),
        "ppo/mean_non_score_reward": -kl_coef * s["objective/kl"] / tokens,
        "ppo/returns/var": _variance(s["ppo/returns/mean"], s["returns"], tokens),
        "ppo/val/var": _variance(s["ppo/val/mean"], s["values"], tokens),
        "tokens/total": s["tokens"],
        **{x: _variance(s[CONSTRAINT], s[x], b) ** 0.5 for x in sums if x == CONSTRAINT_STD},
    }


def _optional(scores: Tensor, k: int, measured: Tensor | None) -> dict[str, Tensor]:
    """Sums that not every run has: of scores ``[b]``, and of the squared measure as its spread."""
    sums = {}
    if k > 1:
        groups = scores.view(-1, k)
        sums["objective/frac_reward_zero_std"] = k * (groups.amax(1) == groups.amin(1)).sum()
    if measured is not None:
        sums[CONSTRAINT] = measured.to(EXACT).sum()
        sums[CONSTRAINT_STD] = (measured.to(EXACT) ** 2).sum()
    return sums


def _mode_collapse(rollout: Rollout) -> tuple[Tensor, Tensor]:
    """``(P - 1, n - 1)`` for ``P`` distinct prompts, ``n`` of which share the most common response.

    The two are equal if all responses are the same.
    """
    prompts = _numbered(rollout.prompt_ids, rollout.prompt_mask)
    responses = _numbered(rollout.response_ids, rollout.response_mask)
    pairs = torch.stack([responses, prompts], dim=1).unique(dim=0)
    return prompts.max(), pairs[:, 0].bincount().max() - 1


def _numbered(ids: Tensor, mask: Tensor) -> Tensor:
    """``[b]`` numbers from 0, on the CPU: rows ``[b, t]`` of the same real tokens share one."""
    return torch.where(mask, ids, -1).cpu().unique(dim=0, return_inverse=True)[1]


def _variance(total: float, squares: float, count: float) -> float:
    """The unbiased variance from sums; 0 for a single number."""
    return max(squares - total**2 / count, 0.0) / max(count - 1, 1)


def token_statistics(
    logprobs: Tensor, values: Tensor, entropy: Tensor, experience: Experience
) -> dict[str, Tensor]:
    """Sums over real tokens that describe an update with any loss, from its figures ``[m, t]`` now.

    Returns:
        ``[]`` each, without a gradient, by the name of their curve: the entropy; the ratio of new
        to old probability; two estimates of KL(old, new) in nats, half the squared log-ratio and
        ``k1``; the value head and its squared error.
    """
    mask = experience.response_mask
    log_ratios, values = log_ratio(logprobs.detach(), experience), values.detach()
    return {
        "policy/entropy": masked_sum(entropy.detach(), mask),
        "policy/ratio": masked_sum(log_ratios.exp(), mask),
        "policy/approxkl": 0.5 * masked_sum(log_ratios**2, mask),
        "policy/policykl": -masked_sum(log_ratios, mask),
        "val/vpred": masked_sum(values, mask),
        "val/error": masked_sum((values - experience.returns) ** 2, mask),
    }


class MiniBatchMeans(NamedTuple):
    """Figures of one mini-batch, over all ranks.

    Attributes:
        terms: Mean of each term of the loss, as the loss averages it.
        statistics: Mean over real tokens of each statistic.
        grad_norm: Norm of the gradient before clipping.
    """

    terms: dict[str, float]
    statistics: dict[str, float]
    grad_norm: float


class UpdateMeter:
    """Averages the figures of one rollout's mini-batches.

    Attributes:
        rows: The figures of each mini-batch, by the names of their curves.
        skipped: Number of mini-batches without an optimizer step.
    """

    def __init__(self, loss: PolicyLoss):
        self.loss = loss
        self.rows: list[dict[str, float]] = []
        self.skipped = 0

    def add(self, means: MiniBatchMeans, skipped: bool) -> None:
        """Adds a mini-batch's figures; ``skipped``: no optimizer step was taken with it."""
        self.skipped += skipped
        self.rows.append(
            {
                **{f"ppo/loss/{name}": x for name, x in means.terms.items() if name != "entropy"},
                "ppo/loss/total": self.loss.total(means.terms),
                **{f"ppo/{name}": x for name, x in means.statistics.items()},
                "ppo/grad_norm": means.grad_norm,
            }
        )

    def metrics(self, returns_variance: float) -> dict[str, float]:
        """Returns means over the mini-batches; empty if there were none.

        ``returns_variance`` is the rollout's; the share that the value head explains needs it.
        """
        count = len(self.rows)
        if not count:
            return {}
        means = {name: sum(row[name] for row in self.rows) / count for name in self.rows[0]}
        explained = 1 - means["ppo/val/error"] / max(returns_variance, 1e-12)
        return {
            **means,
            "ppo/val/var_explained": explained,
            "ppo/skipped_minibatches": float(self.skipped),
        }

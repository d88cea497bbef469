"""What is logged of a rollout and its update."""

import torch
from torch import Tensor

from detox_lightning.algorithm.losses import LossTerms, PPOLoss, total_loss
from detox_lightning.algorithm.masks import Reduce, alone, masked_sum
from detox_lightning.algorithm.types import Experience, Rollout

EXACT = torch.float64


def rollout_metrics(
    rollout: Rollout,
    experience: Experience,
    parts: dict[str, Tensor],
    has_eos: Tensor,
    kl_coef: float,
    reduce: Reduce = alone,
) -> dict[str, float]:
    """Metrics of a rollout over all ranks; one collective.

    Args:
        rollout: ``b`` responses.
        experience: The same, judged.
        parts: What the scores are made of, each ``[b]``, by name.
        has_eos: ``[b]``.
        kl_coef: In force in this rollout.
        reduce: Sum over ranks.

    Returns:
        Names as in TRL, where the meaning is the same. KL and entropy in nats.
    """
    mask, scores = rollout.response_mask, rollout.scores.to(EXACT)
    returns, values = experience.returns.to(EXACT), experience.old_values.to(EXACT)
    others, same = same_answers(rollout)
    sums = {
        "responses": mask.new_ones(len(mask)).sum(),
        "tokens": mask.sum(),
        "prompt_tokens": rollout.prompt_mask.sum(),
        "eos": has_eos.sum(),
        "empty": (has_eos & (mask.sum(dim=1) == 1)).sum(),
        "others": others,
        "same": same,
        "kl": masked_sum(rollout.kl, mask),
        "surprise": -masked_sum(rollout.old_logprobs, mask),
        "scores": scores.sum(),
        "scores2": (scores**2).sum(),
        "returns": masked_sum(returns, mask),
        "returns2": masked_sum(returns**2, mask),
        "values": masked_sum(values, mask),
        "values2": masked_sum(values**2, mask),
        **{f"rewards/{name}": part.sum() for name, part in parts.items()},
    }
    stacked = reduce(torch.stack([x.to(EXACT) for x in sums.values()]))
    s = dict(zip(sums, stacked.tolist(), strict=True))
    b, tokens = s["responses"], max(s["tokens"], 1)
    return {
        "objective/kl": s["kl"] / b,
        "objective/kl_per_token": s["kl"] / tokens,
        "objective/kl_coef": kl_coef,
        "objective/entropy": s["surprise"] / b,
        "objective/scores_mean": s["scores"] / b,
        "objective/scores_std": _variance(s["scores"], s["scores2"], b) ** 0.5,
        "objective/eos_rate": s["eos"] / b,
        "objective/empty_rate": s["empty"] / b,
        "objective/same_response": s["same"] / max(s["others"], 1),
        "ppo/mean_non_score_reward": -kl_coef * s["kl"] / tokens,
        "ppo/returns/mean": s["returns"] / tokens,
        "ppo/returns/var": _variance(s["returns"], s["returns2"], tokens),
        "ppo/val/mean": s["values"] / tokens,
        "ppo/val/var": _variance(s["values"], s["values2"], tokens),
        "tokens/queries_len_mean": s["prompt_tokens"] / b,
        "tokens/responses_len_mean": s["tokens"] / b,
        "tokens/total": s["tokens"],
        **{name: s[name] / b for name in sums if name.startswith("rewards/")},
    }


def same_answers(rollout: Rollout) -> tuple[Tensor, Tensor]:
    """How far one response is the answer to everything; several to one prompt may well be alike.

    Args:
        rollout: ``b`` responses.

    Returns:
        How many different prompts there are besides one, and how many of them have the response
        that most prompts have, besides one of those. A policy that always says the same thing has
        both alike.
    """
    prompts = _numbered(rollout.prompt_ids, rollout.prompt_mask)
    responses = _numbered(rollout.response_ids, rollout.response_mask)
    pairs = torch.stack([responses, prompts], dim=1).unique(dim=0)
    return prompts.max(), pairs[:, 0].bincount().max() - 1


def _numbered(ids: Tensor, mask: Tensor) -> Tensor:
    """``[b]`` numbers from 0: rows (``[b, t]``) with the same real tokens have the same one."""
    return torch.where(mask, ids, -1).unique(dim=0, return_inverse=True)[1]


def _variance(total: float, squares: float, count: float) -> float:
    """The unbiased variance from sums; 0 for a single number."""
    return max(squares - total**2 / count, 0.0) / max(count - 1, 1)


class UpdateMeter:
    """Averages what the mini-batches of one rollout report."""

    def __init__(self, loss: PPOLoss):
        """Starts with nothing seen.

        Args:
            loss: The constants of the total loss.
        """
        self.loss = loss
        self.rows: list[dict[str, float]] = []
        self.skipped = 0

    def add(self, means: LossTerms[float], grad_norm: float, skipped: bool) -> None:
        """Takes in one mini-batch.

        Args:
            means: Plain numbers: means over the mini-batch's tokens.
            grad_norm: Before clipping.
            skipped: Whether no step was taken.
        """
        self.skipped += skipped
        self.rows.append(
            {
                "ppo/loss/policy": means.policy,
                "ppo/loss/value": means.value,
                "ppo/loss/total": total_loss(means, self.loss),
                "ppo/policy/entropy": means.entropy,
                "ppo/policy/clipfrac": means.clipfrac,
                "ppo/policy/ratio": means.ratio,
                "ppo/policy/approxkl": means.approxkl,
                "ppo/policy/policykl": means.policykl,
                "ppo/val/clipfrac": means.value_clipfrac,
                "ppo/val/vpred": means.vpred,
                "ppo/val/error": means.error,
                "ppo/grad_norm": grad_norm,
            }
        )

    def metrics(self, returns_variance: float) -> dict[str, float]:
        """Means over the mini-batches, and the share of variance that the value head explains.

        Args:
            returns_variance: Of the rollout.

        Returns:
            Nothing if no mini-batch was taken in.
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

"""``PPOModule``, run by a Trainer over the recorded episodes, gives TRL's numbers."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from golden.deviations import EXACT, PER_TOKEN, Deviations, well_conditioned
from golden.replay import Replay, Update

MINIBATCH_METRICS = [
    *("ppo/loss/policy", "ppo/loss/value", "ppo/loss/total"),
    *("ppo/policy/entropy", "ppo/policy/approxkl", "ppo/policy/policykl", "ppo/policy/clipfrac"),
    *("ppo/val/vpred", "ppo/val/error", "ppo/val/clipfrac"),
]
STEP_METRICS = [
    *("objective/kl", "objective/kl_coef", "objective/entropy", "ppo/mean_non_score_reward"),
    *("ppo/learning_rate", "tokens/queries_len_mean"),
]
SCORE_METRICS = {
    "objective/scores_mean": "ppo/mean_scores",
    "objective/scores_std": "ppo/std_scores",
}


def per_update(replayed: Replay) -> Iterator[tuple[int, int, Tensor, Update]]:
    """Step, number, rows and what we did of each mini-batch that was recorded in full.

    In ``clipnorm`` that is the first: TRL clips no other gradient.
    """
    for step, ours in enumerate(replayed.steps):
        rows = replayed.golden.minibatch_rows(step)
        updates = list(enumerate(zip(rows, ours.updates, strict=True)))
        for number, (index, update) in updates[: 1 if replayed.golden.name == "clipnorm" else None]:
            yield step, number, index, update


def test_masks(replayed: Replay) -> None:
    for step, rollout in enumerate(replayed.rollouts):
        assert torch.equal(rollout.response_mask, replayed.golden[step, "masks"])


def test_rollout(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    for step, (ours, rollout) in enumerate(zip(replayed.steps, replayed.rollouts, strict=True)):
        arrays = {
            "logprobs": rollout.old_logprobs,
            "ref_logprobs": rollout.ref_logprobs,
            "values": rollout.values,
            "kl": rollout.kl,
            "non_score_reward": -ours.kl_coef * rollout.kl,
        }
        for name, array in arrays.items():
            assert array.dtype == torch.float64, name
            deviations.check(golden.name, name, array, golden[step, name], golden[step, "masks"])


def test_scores_rewards_and_advantages(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    for step, experience in enumerate(replayed.experiences):
        arrays = {
            "rewards": replayed.rewards[step],
            "advantages": experience.advantages,
            "returns": experience.returns,
        }
        for name, array in arrays.items():
            deviations.check(golden.name, name, array, golden[step, name], golden[step, "masks"])
        shaped, recorded = replayed.scores[step], golden[step, "scores_after_scaling"]
        deviations.check(golden.name, "scores_after_scaling", shaped, recorded)


def test_forward_passes_of_the_update(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    for step, number, rows, update in per_update(replayed):
        mask = golden[step, "masks"][rows]
        old_logprobs = replayed.rollouts[step].old_logprobs[rows]
        # ours are as wide as the mini-batch's longest response
        beyond = (0, mask.shape[1] - update.forward.logprobs.shape[1])
        assert not mask[:, mask.shape[1] - beyond[1] :].any()
        logprobs, values, _ = (pad(x, beyond) for x in update.forward)
        arrays = {
            "logprobs": logprobs,
            "vpreds": values,
            "log_ratio": logprobs - old_logprobs,  # ratios go up to 49
        }
        recorded = {name: golden[step, f"mb{number}.{name}"] for name in ("logprobs", "vpreds")}
        recorded["log_ratio"] = golden[step, f"mb{number}.ratio"].log()
        for name, array in arrays.items():
            deviations.check(golden.name, f"mb.{name}", array, recorded[name], mask)


def test_losses(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    for step, number, _, _ in per_update(replayed):
        ours = replayed.meters[step].rows[number]
        recorded = golden.steps[step]["minibatch_stats"][number]
        for name in MINIBATCH_METRICS:
            theirs = recorded[name.removeprefix("ppo/")]
            deviations.check(golden.name, name, ours[name], theirs, tolerance=EXACT)


def test_gradients(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    for step, number, _, update in per_update(replayed):
        if recorded := golden.parameters(step, f"mb{number}.grad"):
            deviations.check_parameters(golden.name, "mb.grad", update.gradients, recorded)


def test_parameters(replayed: Replay, deviations: Deviations) -> None:
    """After the first mini-batch, where that was recorded, and after every step."""
    golden = replayed.golden
    for step, ours in enumerate(replayed.steps):
        pairs = {"param_after": ours.after, "mb0.param_after": ours.updates[1].before}
        for name, parameters in pairs.items():
            if recorded := golden.parameters(step, name):
                mask = None
                if golden.name == "clipnorm":
                    mask = well_conditioned(golden.parameters(step, "mb0.grad"))
                deviations.check_parameters(golden.name, name, parameters, recorded, mask)


def test_what_is_logged(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    shaped = any(golden.config[key] for key in ("use_score_scaling", "score_clip"))
    names = {name: name for name in STEP_METRICS} | ({} if shaped else SCORE_METRICS)
    if golden.name != "clipnorm":
        names |= {name: name for name in MINIBATCH_METRICS}
    for ours, recorded in zip(replayed.steps, golden.steps, strict=True):
        for name, theirs in names.items():
            # an objective sums a response's tokens, up to 100 nats: float32 is good for 8e-6 there
            tolerance = PER_TOKEN if name.startswith("objective/") else EXACT
            value = recorded["trl_stats"][theirs]
            deviations.check(
                golden.name, f"logged {name}", ours.metrics[name], value, None, tolerance
            )


def test_kl_coefficient(replayed: Replay, deviations: Deviations) -> None:
    golden = replayed.golden
    for ours, recorded in zip(replayed.steps, golden.steps, strict=True):
        for name in ("kl_coef", "kl_coef_after"):
            value = recorded["kl_coef_before" if name == "kl_coef" else name]
            deviations.check(golden.name, name, getattr(ours, name), value, tolerance=EXACT)

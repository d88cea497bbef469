"""Micro-batches: TRL's mean of means, and our mean over the mini-batch's tokens."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from detox_lightning.algorithm.experience import to_experience
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.algorithm.shaping import RunningMoments
from detox_lightning.algorithm.types import Experience
from detox_lightning.models.policy import Policy
from detox_lightning.rollout import measure
from detox_lightning.stages.optimization import trainable_parameters
from golden.deviations import EXACT, Deviations, Parameters, well_conditioned
from golden.records import episodes, golden_set, our_name
from golden.replay import module_options, open_policy
from numerics import in_float64

GOLDEN = golden_set("accum")
OPTIONS = module_options(GOLDEN.config)
MICRO = GOLDEN.config["mini_batch_size"]
MICROS = GOLDEN.config["gradient_accumulation_steps"]


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[Policy]:
    policy = open_policy(tmp_path)
    with in_float64(policy):
        yield policy


def experience_of(policy: Policy, step: int, kl_coef: float) -> Experience:
    batch, responses, scores = episodes()[step]
    rollout = measure(policy, batch, responses, scores, "k1")
    return to_experience(
        rollout, kl_coef, OPTIONS["advantage"], OPTIONS["scores"], RunningMoments()
    )


LOSS: PPOLoss = OPTIONS["loss"]


def sums_of(policy: Policy, rows: Experience) -> dict[str, Tensor]:
    output = policy(rows.prompt_ids, rows.prompt_mask, rows.response_ids)
    weights = rows.response_mask.float()
    return LOSS(output.logprobs, output.values, output.entropy, rows, weights).terms


def tokens(rows: Experience) -> Tensor:
    return rows.response_mask.sum()


def mean_of_means(policy: Policy, micros: list[Experience]) -> Iterator[dict[str, Tensor]]:
    """TRL's: each micro-batch weighs the same, however many tokens it has."""
    for rows in micros:
        means = {name: term / tokens(rows) for name, term in sums_of(policy, rows).items()}
        (LOSS.total(means) / len(micros)).backward()
        yield means


def token_mean(policy: Policy, micros: list[Experience]) -> None:
    """Ours: each token weighs the same, whichever micro-batch it's in."""
    count = torch.stack([tokens(rows) for rows in micros]).sum()
    for rows in micros:
        (LOSS.total(sums_of(policy, rows)) / count).backward()


def by_name(policy: Policy, what: Callable[[Tensor], Any]) -> Parameters:
    named = policy.named_parameters()
    return {f"policy.{name}": what(p).detach() for name, p in named if p.requires_grad}


def gradient(policy: Policy) -> Tensor:
    parameters = trainable_parameters(policy)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    policy.zero_grad()
    return flat


def test_mean_of_means_gives_trls_steps(policy: Policy, deviations: Deviations) -> None:
    optimizer = torch.optim.Adam(trainable_parameters(policy), GOLDEN.config["learning_rate"])
    clip, conditioned = GOLDEN.config["max_grad_norm"], {}
    for step, recorded in enumerate(GOLDEN.steps):
        experience = experience_of(policy, step, recorded["kl_coef_before"])
        micros = [experience.rows(rows) for rows in GOLDEN.minibatch_rows(step)]
        statistics = iter(recorded["minibatch_stats"])
        for start in range(0, len(micros), MICROS):
            for means in mean_of_means(policy, micros[start : start + MICROS]):
                theirs = next(statistics)
                for name in ("policy", "value"):
                    ours, value = means[name], theirs[f"loss/{name}"]
                    deviations.check("accum", f"accum: loss/{name}", ours, value, tolerance=EXACT)
            if clip is not None:
                clip_grad_norm_(trainable_parameters(policy), clip)
                clip = None  # TRL clips a run's first step alone
                conditioned = well_conditioned(by_name(policy, lambda p: p.grad))
            optimizer.step()
            optimizer.zero_grad()
        ours, theirs = by_name(policy, lambda p: p), GOLDEN.parameters(step, "param_after")
        deviations.check_parameters("accum", "accum: param_after", ours, theirs, conditioned)


def test_ours_is_the_whole_mini_batchs_gradient_and_theirs_is_not(policy: Policy) -> None:
    experience = experience_of(policy, 0, kl_coef=0.2)
    micros = [experience.rows(rows) for rows in GOLDEN.minibatch_rows(0)[:MICROS]]
    assert len({int(tokens(rows)) for rows in micros}) == 2
    whole = Experience(*(torch.cat(parts) for parts in zip(*micros, strict=True)))

    token_mean(policy, [whole])
    one_pass = gradient(policy)
    token_mean(policy, micros)
    ours = gradient(policy)
    list(mean_of_means(policy, micros))
    theirs = gradient(policy)

    assert torch.allclose(ours, one_pass, atol=EXACT)
    assert (theirs - one_pass).norm() > 0.1 * one_pass.norm()


def test_they_agree_where_micro_batches_have_as_many_tokens(policy: Policy) -> None:
    experience = experience_of(policy, 0, kl_coef=0.2)
    rows = experience.rows(torch.arange(MICRO))
    micros = [rows, rows._replace(advantages=-2 * rows.advantages, returns=rows.returns + 1)]
    token_mean(policy, micros)
    ours = gradient(policy)
    list(mean_of_means(policy, micros))
    assert torch.allclose(gradient(policy), ours, atol=EXACT)


def test_names_of_parameters(policy: Policy) -> None:
    """Every recorded parameter is one of ours."""
    names = set(by_name(policy, lambda p: p))
    assert set(GOLDEN.parameters(0, "param_after")) == names
    assert our_name("v_head.summary.bias") in names

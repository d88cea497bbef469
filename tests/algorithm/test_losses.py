"""The losses, on four tokens in two rows of three; hand-computed, and the same however cut up."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.group_losses import CISPOLoss, DrGRPOLoss, GRPOLoss, GSPOLoss
from detox_lightning.algorithm.losses import (
    Average,
    LossSums,
    PolicyLoss,
    PPOLoss,
    token_weights,
)
from detox_lightning.algorithm.metrics import token_statistics
from detox_lightning.algorithm.types import Experience
from detox_lightning.errors import InputError

MASK = torch.tensor([[True, True, True], [True, False, False]])
RATIO = torch.tensor([[1.0, 2.0, 0.5], [1.1, 9.0, 9.0]])
OLD_LOGPROBS = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]])
LOGPROBS = OLD_LOGPROBS + RATIO.log()
REF_RATIO = torch.tensor([[1.0, 1.0, 2.0], [0.5, 9.0, 9.0]])  # the reference's to the policy's
VALUES = torch.tensor([[0.1, 0.5, -0.5], [0.2, 9.0, 9.0]])
ENTROPY = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
ADVANTAGES = torch.tensor([[1.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
LOSS = PPOLoss(clip_range=0.2, clip_range_value=0.2, vf_coef=0.1, ent_coef=0.01)
LONGEST = 8
K3 = (2 - 1 - math.log(2)) + (0.5 - 1 - math.log(0.5))  # of the third and the fourth token


def experience(dtype: torch.dtype = torch.float32) -> Experience:
    unread = torch.zeros(2, 0)
    return Experience(
        prompt_ids=unread,
        prompt_mask=unread,
        response_ids=unread,
        response_mask=MASK,
        old_logprobs=OLD_LOGPROBS.to(dtype),
        ref_logprobs=(LOGPROBS + REF_RATIO.log()).to(dtype),
        old_values=torch.zeros(2, 3, dtype=dtype),
        advantages=ADVANTAGES.to(dtype),
        returns=torch.tensor([[0.0, 1.0, 1.0], [0.1, 0.0, 0.0]], dtype=dtype),
    )


def sums(
    loss: PolicyLoss = LOSS,
    logprobs: Tensor = LOGPROBS,
    values: Tensor = VALUES,
    advantages: Tensor = ADVANTAGES,
) -> LossSums:
    weights, _ = token_weights(MASK, loss.average, LONGEST)
    rows = experience()._replace(advantages=advantages)
    return loss(logprobs, values, ENTROPY, rows, weights)


def policy(loss: PolicyLoss, **given: Tensor) -> float:
    """The mean policy loss of the two rows."""
    return float(
        sums(loss, **given).terms["policy"] / token_weights(MASK, loss.average, LONGEST)[1]
    )


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        # ratio 2 earns 1.2 at most; ratio .5 of a bad token still costs .8
        ("policy", -1 - 1.2 + 0.8 - 2.2),
        # .5 counts as .2, whose error of .8 is the larger; -.5 is further off than -.2
        ("value", 0.5 * (0.01 + 0.64 + 2.25 + 0.01)),
        ("entropy", 1 + 2 + 3 + 4),
    ],
)
def test_sums_of_ppo(term: str, expected: float) -> None:
    assert float(sums().terms[term]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("policy/clipfrac", 2),
        ("val/clipfrac", 1),
        ("val/error", 0.01 + 0.25 + 2.25 + 0.01),
        ("val/vpred", 0.1 + 0.5 - 0.5 + 0.2),
        ("policy/entropy", 1 + 2 + 3 + 4),
        ("policy/ratio", 1 + 2 + 0.5 + 1.1),
        ("policy/approxkl", 0.5 * (2 * math.log(2) ** 2 + math.log(1.1) ** 2)),
        ("policy/policykl", -math.log(1.1)),
    ],
)
def test_statistics_over_real_tokens(name: str, expected: float) -> None:
    statistics = token_statistics(LOGPROBS, VALUES, ENTROPY, experience())
    ours = {**statistics, **sums().statistics}[name]
    assert float(ours) == pytest.approx(expected, abs=1e-6)


def test_total_weighs_the_terms() -> None:
    total = LOSS.total(sums().terms)
    assert float(total) == pytest.approx(-3.6 + 0.1 * 1.455 - 0.01 * 10, abs=1e-6)


def test_gradients_flow_where_nothing_is_clipped() -> None:
    """To a log-probability it is -advantage · ratio, to a value (value - return)."""
    logprobs = LOGPROBS.clone().requires_grad_()
    values = VALUES.clone().requires_grad_()
    found = sums(logprobs=logprobs, values=values)
    (found.terms["policy"] + found.terms["value"]).backward()
    assert torch.allclose(logprobs.grad, torch.tensor([[-1.0, 0, 0], [-2.2, 0, 0]]))
    assert torch.allclose(values.grad, torch.tensor([[0.1, 0, -1.5], [0.1, 0, 0]]), atol=1e-6)
    statistics = token_statistics(logprobs, values, ENTROPY, experience())
    assert not any(x.requires_grad for x in [*found.statistics.values(), *statistics.values()])


def test_before_the_first_step_nothing_is_clipped() -> None:
    found = sums(logprobs=OLD_LOGPROBS.clone(), values=torch.zeros(2, 3))
    assert (found.statistics["policy/clipfrac"], found.statistics["val/clipfrac"]) == (0, 0)


# -- what else the losses have: by hand


def test_clip_higher_rewards_a_larger_ratio() -> None:
    """Ratio 2 earns 1.28; below 1 nothing changes."""
    loss = PPOLoss(clip_range=0.2, clip_range_high=0.28)
    assert policy(loss) == pytest.approx((-1 - 1.28 + 0.8 - 2.2) / 4)


def test_dual_clip_bounds_the_charge_for_a_bad_token() -> None:
    """A bad token of ratio 2 costs 2, or 1.5 with the bound; good ones are left alone."""
    bad = torch.tensor([[1.0, -1.0, -1.0], [2.0, 0.0, 0.0]])
    assert policy(PPOLoss(), advantages=bad) == pytest.approx((-1 + 2 + 0.8 - 2.2) / 4)
    bounded = policy(PPOLoss(dual_clip=1.5), advantages=bad)
    assert bounded == pytest.approx((-1 + 1.5 + 0.8 - 2.2) / 4)


def test_dual_clip_is_above_one() -> None:
    with pytest.raises(InputError, match=r"model\.loss\.dual_clip=1: give a ratio above 1"):
        PPOLoss(dual_clip=1)


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        ("tokens", (-1 - 1.2 + 0.8 - 2.2) / 4),
        ("responses", ((-1 - 1.2 + 0.8) / 3 - 2.2) / 2),
        ("constant", (-1 - 1.2 + 0.8 - 2.2) / LONGEST / 2),
    ],
)
def test_averages(average: Average, expected: float) -> None:
    assert policy(PPOLoss(average=average)) == pytest.approx(expected)


def test_grpo_is_the_mean_of_the_responses_means_with_kl() -> None:
    loss = GRPOLoss(kl_coef=0.04)
    terms = {name: x / 2 for name, x in sums(loss).terms.items()}
    kl = ((2 - 1 - math.log(2)) / 3 + (0.5 - 1 - math.log(0.5))) / 2
    assert float(terms["kl"]) == pytest.approx(kl)
    expected = ((-1 - 1.2 + 0.8) / 3 - 2.2) / 2 + 0.04 * kl
    assert float(loss.total(terms)) == pytest.approx(expected)


def test_dr_grpo_divides_by_a_constant() -> None:
    assert policy(DrGRPOLoss()) == pytest.approx((-1 - 1.2 + 0.8 - 2.2) / LONGEST / 2)
    assert "kl" not in sums(DrGRPOLoss()).terms


def test_gspo_has_one_ratio_for_a_response() -> None:
    """(1 · 2 · ½)^⅓ = 1 and 1.1; the mean advantage of the first response is ⅓."""
    assert policy(GSPOLoss(0.2, None)) == pytest.approx((-1 / 3 - 2 * 1.1) / 2)
    assert policy(GSPOLoss(0.2, 0.05)) == pytest.approx((-1 / 3 - 2 * 1.05) / 2)
    assert float(sums(GSPOLoss(0.2, 0.05)).statistics["policy/clipfrac"]) == 1


def test_each_token_of_gspo_learns_its_own_advantage() -> None:
    """To each log-probability: -its advantage · ratio / length."""
    logprobs = LOGPROBS.clone().requires_grad_()
    sums(GSPOLoss(0.2, None), logprobs=logprobs).terms["policy"].backward()
    expected = torch.tensor([[-1 / 3, -1 / 3, 1 / 3], [-2.2, 0, 0]])
    assert torch.allclose(logprobs.grad, expected)


def test_cispo_learns_from_clipped_tokens_with_a_bounded_weight() -> None:
    """-A·min(r, 1.2)·log p: to a log-probability the gradient is -A·min(r, 1.2)."""
    logprobs = LOGPROBS.clone().requires_grad_()
    found = sums(CISPOLoss(clip_range_high=0.2), logprobs=logprobs)
    found.terms["policy"].backward()
    expected = torch.tensor([[-1.0, -1.2, 0.5], [-2.2, 0, 0]])
    assert torch.allclose(logprobs.grad, expected)
    value = -(1 * LOGPROBS[0, 0] + 1.2 * LOGPROBS[0, 1] - 0.5 * LOGPROBS[0, 2])
    value = value - 2 * 1.1 * LOGPROBS[1, 0]
    assert float(found.terms["policy"].detach()) == pytest.approx(float(value))
    assert float(found.statistics["policy/clipfrac"]) == 1


def test_kl_in_the_loss_has_the_gradient_of_the_divergence() -> None:
    """Of k3, e^d - 1 - d with d = log(ref/policy), it is 1 - e^d."""
    logprobs = LOGPROBS.clone().requires_grad_()
    found = sums(PPOLoss(kl_coef=0.5), logprobs=logprobs).terms["kl"]
    assert float(found.detach()) == pytest.approx(K3)
    found.backward()
    assert torch.allclose(logprobs.grad, torch.where(MASK, 1 - REF_RATIO, 0), atol=1e-6)


# -- invariances of all losses

LOSSES = {
    "ppo": LOSS,
    "ppo everything": PPOLoss(
        ent_coef=0.01, clip_range_high=0.28, dual_clip=3, kl_coef=0.1, average="responses"
    ),
    "grpo": GRPOLoss(ent_coef=0.01),
    "dr_grpo": DrGRPOLoss(kl_coef=0.1),
    "gspo": GSPOLoss(0.2, 0.3, kl_coef=0.1),
    "cispo": CISPOLoss(kl_coef=0.1),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def gradient(loss: PolicyLoss, parts: list[slice]) -> tuple[Tensor, dict[str, Any]]:
    """Float64 gradients and means where rows come in parts, as micro-batches or ranks."""
    logprobs = LOGPROBS.double().requires_grad_()
    values = VALUES.double().requires_grad_()
    terms: dict[str, Any] = {}
    divisor: Any = 0
    for rows in parts:
        part = Experience(*(field[rows] for field in experience(torch.float64)))
        weights, count = token_weights(MASK[rows], loss.average, LONGEST)
        entropy = ENTROPY[rows].double()
        found = loss(logprobs[rows], values[rows], entropy, part, weights.double())
        divisor = divisor + count
        terms = {name: terms.get(name, 0.0) + x for name, x in found.terms.items()}
    means = {name: x / divisor for name, x in terms.items()}
    loss.total(means).backward()
    flat = torch.cat([x.grad.flatten() for x in (logprobs, values) if x.grad is not None])
    return flat, means


@each_loss
def test_rows_add_up(loss: PolicyLoss) -> None:
    """So that micro-batches of any size, on any ranks, make the mini-batch's gradient."""
    whole, means = gradient(loss, [slice(None)])
    parts, means_of_parts = gradient(loss, [slice(0, 1), slice(1, 2)])
    assert torch.allclose(whole, parts, rtol=1e-12, atol=0)
    for name, mean in means.items():
        assert torch.allclose(mean, means_of_parts[name], rtol=1e-12, atol=0)


@each_loss
def test_what_stands_in_padding_is_never_read(loss: PolicyLoss) -> None:
    padding = ~MASK
    clean = LOGPROBS.clone().requires_grad_()
    dirty = LOGPROBS.masked_fill(padding, float("nan")).requires_grad_()
    values = VALUES.masked_fill(padding, float("nan"))
    advantages = ADVANTAGES.masked_fill(padding, float("nan"))
    expected = sums(loss, logprobs=clean)
    found = sums(loss, logprobs=dirty, values=values, advantages=advantages)
    for name, term in expected.terms.items():
        assert torch.equal(found.terms[name], term)
    loss.total(expected.terms).backward()
    loss.total(found.terms).backward()
    assert torch.equal(clean.grad, torch.where(MASK, dirty.grad, 0))

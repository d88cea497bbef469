"""The clipped losses, on four tokens in two rows of three."""

import math

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.losses import LossTerms, PPOLoss, ppo_loss, total_loss
from detox_lightning.algorithm.types import Experience

MASK = torch.tensor([[True, True, True], [True, False, False]])
RATIO = torch.tensor([[1.0, 2.0, 0.5], [1.1, 9.0, 9.0]])
OLD_LOGPROBS = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]])
VALUES = torch.tensor([[0.1, 0.5, -0.5], [0.2, 9.0, 9.0]])
ENTROPY = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
LOSS = PPOLoss(clip_range=0.2, clip_range_value=0.2, vf_coef=0.1, ent_coef=0.01)


def experience() -> Experience:
    unread = torch.zeros(2, 0)
    return Experience(
        prompt_ids=unread,
        prompt_mask=unread,
        response_ids=unread,
        response_mask=MASK,
        old_logprobs=OLD_LOGPROBS,
        old_values=torch.zeros(2, 3),
        advantages=torch.tensor([[1.0, 1.0, -1.0], [2.0, 0.0, 0.0]]),
        returns=torch.tensor([[0.0, 1.0, 1.0], [0.1, 0.0, 0.0]]),
    )


def terms(logprobs: Tensor, values: Tensor = VALUES) -> LossTerms[Tensor]:
    return ppo_loss(logprobs, values, ENTROPY, experience(), LOSS)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        # ratio 2 earns 1.2 at most; ratio .5 of a bad token still costs .8
        ("policy", -1 - 1.2 + 0.8 - 2.2),
        ("clipfrac", 2),
        # .5 counts as .2, whose error of .8 is the larger; -.5 is further off than -.2
        ("value", 0.5 * (0.01 + 0.64 + 2.25 + 0.01)),
        ("value_clipfrac", 1),
        ("error", 0.01 + 0.25 + 2.25 + 0.01),
        ("vpred", 0.1 + 0.5 - 0.5 + 0.2),
        ("entropy", 1 + 2 + 3 + 4),
        ("ratio", 1 + 2 + 0.5 + 1.1),
        ("approxkl", 0.5 * (2 * math.log(2) ** 2 + math.log(1.1) ** 2)),
        ("policykl", -math.log(1.1)),
    ],
)
def test_sums_over_real_tokens(term: str, expected: float) -> None:
    ours = getattr(terms(OLD_LOGPROBS + RATIO.log()), term)
    assert float(ours) == pytest.approx(expected, abs=1e-6)


def test_total_loss() -> None:
    weighted = total_loss(terms(OLD_LOGPROBS + RATIO.log()), LOSS)
    assert float(weighted) == pytest.approx(-3.6 + 0.1 * 1.455 - 0.01 * 10, abs=1e-6)


def test_gradients_flow_where_nothing_is_clipped() -> None:
    """To a log-probability it is -advantage · ratio, to a value (value - return)."""
    logprobs = (OLD_LOGPROBS + RATIO.log()).requires_grad_()
    values = VALUES.clone().requires_grad_()
    sums = terms(logprobs, values)
    (sums.policy + sums.value).backward()
    assert torch.allclose(logprobs.grad, torch.tensor([[-1.0, 0, 0], [-2.2, 0, 0]]))
    assert torch.allclose(values.grad, torch.tensor([[0.1, 0, -1.5], [0.1, 0, 0]]), atol=1e-6)
    assert not any(term.requires_grad for term in sums[3:])


def test_rows_add_up() -> None:
    """So that micro-batches of any size make the mini-batch's gradient."""
    logprobs = OLD_LOGPROBS + RATIO.log()
    rows = [
        ppo_loss(logprobs[i], VALUES[i], ENTROPY[i], experience().rows(i), LOSS)
        for i in (torch.tensor([0]), torch.tensor([1]))
    ]
    for whole, one, other in zip(terms(logprobs), *rows, strict=True):
        assert torch.allclose(whole, one + other)


def test_what_stands_in_padding_is_never_read() -> None:
    padding = ~MASK
    garbage = [x.masked_fill(padding, float("nan")) for x in (RATIO.log() + OLD_LOGPROBS, VALUES)]
    for dirty, clean in zip(terms(*garbage), terms(RATIO.log() + OLD_LOGPROBS), strict=True):
        assert torch.equal(dirty, clean)


def test_before_the_first_step_nothing_is_clipped() -> None:
    sums = terms(OLD_LOGPROBS.clone(), torch.zeros(2, 3))
    assert float(sums.ratio) == MASK.sum()
    assert (sums.clipfrac, sums.value_clipfrac, sums.approxkl, sums.policykl) == (0, 0, 0, 0)

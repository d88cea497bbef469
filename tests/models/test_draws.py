"""Tokens drawn with one random number each, and their log-probabilities."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detox_lightning.models.decoding import draws
from detox_lightning.models.decoding.draws import GumbelDraws, TorchDraws, inverse_cdf
from detox_lightning.models.decoding.sampling import Sampling
from numerics import NoFloatingSums

MANY = 200_000
PLACES = torch.arange(500)


@pytest.fixture(params=["at once", "by blocks"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by blocks":
        monkeypatch.setattr(draws, "MAX_UNBLOCKED", 3)
        monkeypatch.setattr(draws, "BLOCK", 16)


@pytest.mark.usefixtures("ways")
def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    torch.manual_seed(0)
    p = torch.randn(1, 100).mul(1.5).softmax(dim=-1)
    found = inverse_cdf(p.expand(MANY, -1)).bincount(minlength=100) / MANY
    deviations = (found - p[0]) / (p[0] * (1 - p[0]) / MANY).sqrt()
    assert deviations.square().mean() == pytest.approx(1, abs=0.5)  # chi-squared of 99 degrees
    assert deviations.abs().max() < 4.5


@pytest.mark.usefixtures("ways")
def test_what_is_impossible_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.zeros(3, 40)
    p[0, 0], p[1, 17], p[2, 39] = 1, 1, 1
    for share in (0.0, 0.5, 1 - 2**-53):
        monkeypatch.setattr(
            torch, "rand", lambda *size, share=share, **kind: torch.full(size, share, **kind)
        )
        assert inverse_cdf(p).tolist() == [0, 17, 39]


@pytest.mark.usefixtures("ways")
def test_shares_of_one_lie_in_the_order_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.zeros(5, 40)
    p[:, 3], p[:, 20], p[:, 38] = 0.25, 0.5, 0.25
    shares = torch.tensor([[0.0], [0.24], [0.26], [0.74], [0.76]], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *size, **kind: shares)
    assert inverse_cdf(p).tolist() == [3, 3, 20, 20, 38]


def test_log_probabilities_are_noted_where_a_row_was_asked() -> None:
    torch.manual_seed(0)
    draws = TorchDraws()
    choose = Sampling(temperature=0.5, min_new_tokens=2).choose([1], draws)
    logits = torch.randn(2, 4, 6)
    asked = torch.arange(4), torch.tensor([3, 1])
    for step, rows in enumerate(asked):
        tokens = choose(logits[step, rows], rows, step)
        scores = logits[step] / 0.5
        scores[:, 1] = -torch.inf  # EOS, too early
        expected = torch.zeros(4)
        expected[rows] = scores.log_softmax(dim=-1)[rows, tokens]
        torch.testing.assert_close(draws.logprobs[step], expected, atol=1e-6, rtol=0)
        assert (draws.logprobs[step] != 0).tolist() == [row in rows for row in range(4)]


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("top_k", [0, 30])
@pytest.mark.parametrize("top_p", [0.8, 1.0])
@pytest.mark.parametrize("draw", [TorchDraws, lambda: GumbelDraws(3, PLACES, PLACES % 3)])
def test_a_deterministic_gpu_sums_no_floating_point_numbers(
    top_k: int, top_p: float, draw: Any, deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And draws what is drawn here, whatever the sampling."""
    logits = torch.randn(len(PLACES), 700, generator=torch.Generator().manual_seed(0)).mul(3)
    sampling = Sampling(temperature=0.8, min_new_tokens=2, top_k=top_k, top_p=top_p)

    def drawn() -> Tensor:
        torch.manual_seed(1)
        return sampling.choose([1], draw())(logits, PLACES, 0)

    expected = drawn()
    assert len(expected.unique()) > 100
    monkeypatch.setattr(draws, "SUMS_IN_ORDER", set())
    with NoFloatingSums():
        assert torch.equal(drawn(), expected)
        with pytest.raises(RuntimeError, match="cumsum does not have"):
            logits.cumsum(dim=1)


def test_running_sums_in_whole_units_are_exact(
    deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "SUMS_IN_ORDER", set())
    p = torch.tensor([[0.5, 0.0, 2.0**-30, 2.0**-52, 2.0**-53, 0.25]])
    counted = [0.5, 0.5, 0.5 + 2.0**-30, *[0.5 + 2.0**-30 + 2.0**-52] * 2]
    expected = torch.tensor([[*counted, counted[-1] + 0.25]], dtype=torch.float64)
    assert torch.equal(draws.running_sums(p, torch.float64), expected)
    assert draws.running_sums(p, torch.float32).dtype == torch.float32

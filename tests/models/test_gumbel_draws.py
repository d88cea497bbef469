"""Noise that is a function of seed, prompt, sample, step and token, and is Gumbel's."""

import math

import pytest
import torch
from torch import Tensor

from detox_lightning.models.decoding.draws import GumbelDraws, gumbel, hashed

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05])
ROWS = 100_000


def drawn(noise: GumbelDraws, rows: int = ROWS) -> Tensor:
    """The next token of each row, from the same four probabilities."""
    return pick(noise, PROBABILITIES.log().expand(rows, 4))


def pick(noise: GumbelDraws, logits: Tensor) -> Tensor:
    """The next token of each row."""
    return noise(logits, torch.arange(len(logits)), len(noise.logprobs))


def noise_of(seed: int, rows: int = ROWS, sample: int = 1) -> GumbelDraws:
    return GumbelDraws(seed, torch.arange(rows), torch.full((rows,), sample))


def shares(first: Tensor, second: Tensor) -> Tensor:
    """How often each pair of tokens was drawn."""
    return torch.bincount(first * 4 + second, minlength=16).view(4, 4) / len(first)


def test_numbers_are_gumbel_s() -> None:
    numbers = gumbel(hashed(torch.arange(2000, dtype=torch.int32)), torch.arange(1000))
    assert numbers.isfinite().all()
    assert numbers.mean() == pytest.approx(0.5772, abs=0.005)
    assert numbers.var() == pytest.approx(math.pi**2 / 6, abs=0.01)
    for place in (-1.0, 0.0, 1.0, 4.0):
        below = (numbers <= place).float().mean()
        assert below == pytest.approx(math.exp(-math.exp(-place)), abs=0.002)


def test_draws_follow_the_probabilities_at_every_step() -> None:
    noise = noise_of(1)
    for _ in range(3):
        counts = torch.bincount(drawn(noise), minlength=4) / ROWS
        assert counts.tolist() == pytest.approx(PROBABILITIES.tolist(), abs=0.006)


def test_draws_know_nothing_of_each_other() -> None:
    independent = PROBABILITIES[:, None] * PROBABILITIES
    noise = noise_of(1)
    first = drawn(noise)
    others = {
        "step": drawn(noise),
        "sample": drawn(noise_of(1, sample=2)),
        "seed": drawn(noise_of(2)),
        "prompt": first.roll(1),
    }
    for name, other in others.items():
        torch.testing.assert_close(
            shares(first, other), independent, rtol=0, atol=0.006, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_row_s_noise_is_the_same_in_any_batch() -> None:
    logits = torch.randn(6, 50)
    places, samples = torch.tensor([7, 3, 9, 3, 1, 0]), torch.tensor([1, 2, 1, 1, 2, 3])
    together = GumbelDraws(5, places, samples)
    steps = [pick(together, logits) for _ in range(20)]
    for row in range(6):
        alone = GumbelDraws(5, places[[row]], samples[[row]])
        assert [int(pick(alone, logits[[row]])) for _ in steps] == [int(x[row]) for x in steps]


def test_rows_that_have_ended_may_be_left_out() -> None:
    logits = torch.randn(6, 50)
    places, samples = torch.arange(6), torch.ones(6, dtype=torch.long)
    whole, some = GumbelDraws(5, places, samples), GumbelDraws(5, places, samples)
    left = torch.tensor([4, 1, 2])
    for step in range(20):
        assert torch.equal(whole(logits, places, step)[left], some(logits[left], left, step))
        assert torch.equal(whole.logprobs[step][left], some.logprobs[step][left])
        assert some.logprobs[step][[0, 3, 5]].tolist() == [0, 0, 0]


def test_greedy_rows_get_none() -> None:
    logits = torch.randn(200, 50)
    noise = GumbelDraws(5, torch.arange(200), torch.arange(200) % 2)
    tokens = pick(noise, logits)
    likeliest = logits.argmax(dim=1)
    assert torch.equal(tokens[::2], likeliest[::2])
    assert (tokens[1::2] != likeliest[1::2]).float().mean() > 0.5
    expected = logits.log_softmax(dim=1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(noise.logprobs[0], expected)


def test_what_is_impossible_stays_so() -> None:
    logits = torch.full((1000, 4), -torch.inf)
    logits[:, 2] = 0.0
    noise = GumbelDraws(5, torch.arange(1000), torch.ones(1000, dtype=torch.long))
    assert (pick(noise, logits) == 2).all()

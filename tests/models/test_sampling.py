"""Truncation leaves the tokens that transformers' samplers leave."""

import pytest
import torch
from torch import Tensor
from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

from detox_lightning.models.decoding import sampling
from detox_lightning.models.decoding.draws import GumbelDraws
from detox_lightning.models.decoding.sampling import Sampling, truncated

V = 300


def spread(scale: float) -> Tensor:
    return torch.randn(40, V, generator=torch.Generator().manual_seed(0)) * scale


def on_their_places(kept: Tensor, tokens: Tensor) -> Tensor:
    return torch.full((40, V), -torch.inf).scatter_reduce(1, tokens, kept, "amax")


@pytest.mark.parametrize("scale", [0.1, 2.0, 9.0], ids=["flat", "usual", "peaked"])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 1e-6), (7, 1.0), (7, 0.5), (1, 1.0)])
@pytest.mark.parametrize("few", [8, 512])  # 8: some rows need 64 tokens, some all
def test_what_is_left(
    scale: float, top_k: int, top_p: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "CANDIDATES", few)
    scores = spread(scale)
    expected = scores
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    kept, tokens = truncated(scores, top_k, top_p)
    assert torch.equal(on_their_places(kept, tokens), expected)


def test_noise_is_the_token_s_whoever_else_is_a_candidate() -> None:
    """What is drawn among few is what would be drawn among all, the others being impossible."""
    rows, ones = torch.arange(40), torch.ones(40, dtype=torch.long)
    scores = spread(2.0)
    kept, tokens = truncated(scores, 0, 0.7)
    whole = on_their_places(kept, tokens)
    few, all_ = GumbelDraws(3, rows, ones), GumbelDraws(3, rows, ones)
    among_few = tokens.gather(1, few(kept, rows, 0, tokens)[:, None])[:, 0]
    assert torch.equal(among_few, all_(whole, rows, 0))
    torch.testing.assert_close(few.logprobs[0], all_.logprobs[0])
    assert len(set(among_few.tolist())) > 10


def test_a_sample_comes_from_what_is_left() -> None:
    scores = spread(2.0)
    choose = Sampling(top_p=0.3).choose(eos_token_ids=[1])
    likeliest = TopPLogitsWarper(0.3)(None, scores)
    torch.manual_seed(0)
    for _ in range(20):
        drawn = choose(scores, torch.arange(40), 0)
        assert likeliest.gather(1, drawn[:, None]).isfinite().all()

"""A fused activation is the activation."""

import torch
from torch import nn
from transformers.activations import NewGELUActivation

from detox_lightning.models.loading import fuse_activations
from numerics import EXACT


def test_the_fused_gelu_is_transformers_own() -> None:
    plain = NewGELUActivation()
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(NewGELUActivation()), nn.ReLU())
    fuse_activations(model)
    assert [type(part).__name__ for part in (model[1][0], model[2])] == ["GELU", "ReLU"]
    x = torch.linspace(-6, 6, 999, dtype=torch.float64, requires_grad=True)
    for y in (plain, model[1][0]):
        y.expected = torch.autograd.grad(y(x).sum(), x)[0], y(x).detach()
    for ours, theirs in zip(model[1][0].expected, plain.expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=EXACT, rtol=0)

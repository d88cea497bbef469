"""Gradients are clipped at every optimizer step; TRL clipped a run's first one alone."""

import torch

from golden.records import golden_set
from golden.replay import replay


def test_every_step_is_clipped(tiny_classifier: str, tmp_path_factory) -> None:
    golden = golden_set("clipnorm")
    replayed = replay(golden, tiny_classifier, tmp_path_factory.mktemp("clipnorm"))
    (step,), (meter,) = replayed.steps, replayed.meters
    for update, row in zip(step.updates, meter.rows, strict=True):
        flat = torch.cat([gradient.flatten() for gradient in update.gradients.values()])
        assert row["ppo/grad_norm"] > 1  # before clipping
        assert abs(float(flat.norm()) - golden.config["max_grad_norm"]) < 1e-6

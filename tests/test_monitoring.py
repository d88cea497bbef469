"""Validation as Lightning's callbacks see it: the best checkpoint, an early end."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import tiny_recipe
from detox_lightning.cli.command import DetoxCLI
from numerics import float32

ROLLOUTS = 4  # each an epoch, with a validation at its end
EVERY_ROLLOUT = (f"--trainer.max_epochs={ROLLOUTS}", "--trainer.limit_train_batches=1")
FAST = "--model.optimizer.lr=0.1"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str) -> str:
    return tiny_recipe(tmp_path_factory.mktemp("monitored"), tiny_t5, tiny_classifier)


@pytest.fixture(scope="module")
def free(recipe: str) -> DetoxCLI:
    """A run that keeps all checkpoints."""
    return fit(recipe, "--checkpoint.monitor=val/toxicity", "--checkpoint.save_top_k=-1")


def fit(recipe: str, *flags: str) -> DetoxCLI:
    return DetoxCLI(["fit", "--config", recipe, *EVERY_ROLLOUT, FAST, *flags])


def curve(cli: DetoxCLI, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(cli.trainer.log_dir).Reload().Scalars(name)
    return [(event.step, event.value) for event in events]


def test_the_baseline_is_where_the_curve_begins(recipe: str, free: DetoxCLI) -> None:
    steps = [step for step, _ in curve(free, "val/toxicity")]
    assert len(steps) == 1 + ROLLOUTS  # before the first rollout and after each
    assert steps[0] == 0
    assert curve(free, "val/kl")[0] == (0, pytest.approx(0, abs=float32(6)))  # of 6 tokens
    test = DetoxCLI(["test", "--config", recipe, "--data.test_split=validation"])
    before = test.trainer.callback_metrics["test/before/toxicity"]
    assert curve(free, "val/toxicity")[0][1] == pytest.approx(float(before), abs=1e-6)


@pytest.mark.quick(1)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_checkpoint_is_kept(recipe: str, mode: str) -> None:
    cli = fit(recipe, "--checkpoint.monitor=val/toxicity", f"--checkpoint.mode={mode}")
    values = [value for _, value in curve(cli, "val/toxicity")[1:]]
    assert len(set(values)) == ROLLOUTS
    best = {"min": min, "max": max}[mode](values)
    kept = cli.trainer.checkpoint_callback
    assert float(kept.best_model_score) == pytest.approx(best, abs=1e-6)
    rollouts = torch.load(kept.best_model_path, weights_only=True)["detox_lightning"]["rollouts"]
    assert rollouts == 1 + values.index(best)


@pytest.mark.slow
def test_the_best_checkpoint_is_near_the_reference(recipe: str, free: DetoxCLI) -> None:
    kl = [value for _, value in curve(free, "val/kl")[1:]]
    toxicity = [value for _, value in curve(free, "val/toxicity")[1:]]
    # of the most and the least toxic one at least one is not the nearest, and a bound shuts it out
    mode, best = next(
        (mode, best)
        for mode, best in (("min", min), ("max", max))
        if kl[toxicity.index(best(toxicity))] > min(kl)
    )
    bound = kl[toxicity.index(best(toxicity))] - 1e-4
    near = [value for value, far in zip(toxicity, kl, strict=True) if far <= bound]
    assert best(near) != best(toxicity)
    flags = (f"--checkpoint.mode={mode}", f"--checkpoint.max_kl={bound}")
    bounded = fit(recipe, "--checkpoint.monitor=val/toxicity", *flags)
    kept = bounded.trainer.checkpoint_callback
    assert float(kept.best_model_score) == pytest.approx(best(near), abs=1e-6)
    last = torch.load(kept.last_model_path, weights_only=True)
    assert last["detox_lightning"]["rollouts"] == ROLLOUTS


@pytest.mark.slow
def test_a_run_ends_early_where_nothing_gets_better(recipe: str) -> None:
    stopping = "--trainer.callbacks=EarlyStopping"
    flags = ("monitor=val/toxicity", "patience=2", "min_delta=1")
    cli = fit(recipe, stopping, *(f"--trainer.callbacks.{flag}" for flag in flags))
    assert cli.model.rollouts == 3  # one to compare with, two in vain

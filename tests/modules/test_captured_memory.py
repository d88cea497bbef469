"""What captured steps keep is given back: when memory runs out, and when a run ends."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.judge import Judge
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.ppo import actor
from numerics import FLOAT32
from ppo_toys import WatchedPPO, close, fit, make_module
from toys import pairs_loader

PLACES = {
    "sampling": (actor, "sample"),
    "scoring": (actor, "score"),
    "answering": (Evaluator, "respond"),
    "judging": (Judge, "figures"),
}


class Full:
    """Does the work, and lacks memory at its very end, at one of its calls."""

    def __init__(self, work: Any, call: int):
        self.work, self.call, self.calls = work, call, 0

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return lambda *args, **options: self(owner, *args, **options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        done = self.work(*args, **options)
        self.calls += 1
        if self.calls == self.call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return done


def capturing(policy: str, classifier: str) -> WatchedPPO:
    module = make_module(policy, classifier)
    module.configure_model()
    module.policy.static_steps = StaticSteps(capturing=True)
    return module


def is_empty(steps: StaticSteps) -> bool:
    return not (steps.captured or steps.arena.size or steps.merged_weights or steps.arena.buffer)


@pytest.fixture(scope="module")
def plain(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> WatchedPPO:
    module = make_module(tiny_t5, tiny_classifier)
    module.figures = run(module, tmp_path_factory.mktemp("plain"))
    return module


def run(module: WatchedPPO, folder: Path, **options: Any) -> dict[str, float]:
    """Three rollouts, and two batches of validation."""
    trainer = fit(folder, module, rollouts=3, **options)
    (figures,) = trainer.validate(module, pairs_loader(4), verbose=False)
    return dict(figures)


@pytest.mark.quick(2)
@pytest.mark.parametrize("place", PLACES)
def test_a_run_out_of_memory_goes_on_without_captured_steps(
    plain: WatchedPPO,
    tiny_t5: str,
    tiny_classifier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    module = capturing(tiny_t5, tiny_classifier)
    where, name = PLACES[place]
    monkeypatch.setattr(where, name, Full(getattr(where, name), call=2))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figures = run(module, tmp_path)
    about = [str(x.message) for x in told if "out of memory" in str(x.message)]
    assert len(about) == 1
    assert about[0].startswith("out of memory: to save memory, decode steps are no longer captured")
    steps = module.policy.static_steps
    assert is_empty(steps)
    assert steps.capturing is False
    # as if nothing had happened
    for ours, other in zip(module.watched, plain.watched, strict=True):
        assert torch.equal(ours.responses.ids, other.responses.ids)
        assert ours.scored == other.scored
    assert close(module.copies(), plain.copies())
    assert figures == pytest.approx(plain.figures, abs=FLOAT32)


def test_where_nothing_is_captured_out_of_memory_ends_the_run(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    full = Full(actor.sample, call=1)
    monkeypatch.setattr(actor, "sample", full)
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, module, rollouts=2)
    assert full.calls == 1


class Look(Callback):
    """Notes what captured steps hold after each rollout."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        steps = pl_module.policy.static_steps
        self.held = len(steps.captured), len(steps.merged_weights), steps.arena.size


def test_after_a_run_nothing_is_kept(
    plain: WatchedPPO, tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module, look = capturing(tiny_t5, tiny_classifier), Look()
    figures = run(module, tmp_path, callbacks=[look])
    assert look.held[:2] == (1, 12)
    assert look.held[2] > 0
    assert is_empty(module.policy.static_steps)
    assert module.policy.static_steps.capturing
    assert close(module.copies(), plain.copies())
    assert figures == pytest.approx(plain.figures, abs=FLOAT32)

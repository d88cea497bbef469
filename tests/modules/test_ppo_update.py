"""When a mini-batch is skipped, a rollout's passes end early, or training gives up."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from detox_lightning.models.policy import Policy
from detox_lightning.ppo.learner import Learner
from ppo_toys import WatchedPPO, equal, fit, listen, make_module


def optimizer_steps(module: WatchedPPO) -> list[int]:
    return [len(step.gradients) for step in module.watched]


def test_a_mini_batch_above_the_ratio_threshold_is_skipped(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, ratio_threshold=0.9)
    fit(tmp_path, module, rollouts=2)
    for step in module.watched:
        assert step.metrics["ppo/skipped_minibatches"] == 4
        assert equal(step.before, step.after)
    assert optimizer_steps(module) == [0, 0]
    assert not module.optimizers().optimizer.state


def test_others_are_not(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold just above 1 lets the first one pass, and holds back those that went too far."""
    meters = listen(monkeypatch, "learn")
    module = make_module(tiny_t5, tiny_classifier, lr=0.1, ratio_threshold=1.01, ppo_epochs=4)
    fit(tmp_path, module, rollouts=1)
    ratios = [row["ppo/policy/ratio"] for row in meters[0].rows]
    skipped = sum(ratio > 1.01 for ratio in ratios)
    assert 0 < skipped < 8
    assert module.watched[0].metrics["ppo/skipped_minibatches"] == skipped
    assert optimizer_steps(module) == [8 - skipped]


@pytest.fixture(scope="module")
def passes(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The KL from the rollout's policy at the end of each of four passes, if nothing stops them."""
    with pytest.MonkeyPatch.context() as patch:
        meters = listen(patch, "learn")
        module = make_module(tiny_t5, tiny_classifier, lr=1e-2, ppo_epochs=4)
        fit(tmp_path_factory.mktemp("passes"), module, rollouts=1)
    return [row["ppo/policy/policykl"] for row in meters[0].rows[1::2]]


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_passes_end_where_the_policy_has_gone_too_far(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, passes: list[float], factor: float
) -> None:
    """A pass is the last one where the KL at its end is above 1.5 times the threshold."""
    furthest = max(passes[:3])
    assert furthest > 0
    options = {"ppo_epochs": 4, "early_stop_kl": factor * furthest / 1.5}
    module = make_module(tiny_t5, tiny_classifier, lr=1e-2, **options)
    fit(tmp_path, module, rollouts=1)
    expected = passes.index(furthest) + 1 if factor < 1 else 4
    assert len(module.watched[0].orders) == expected
    assert optimizer_steps(module) == [2 * expected]


def test_a_rollout_leaves_nothing_behind(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """No gradient and no mode."""
    module = make_module(tiny_t5, tiny_classifier)
    fit(tmp_path, module, rollouts=1)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part.training for part in module.policy.modules())
    assert torch.is_grad_enabled()


class Waiting(TorchFunctionMode):
    """Refuses what makes Python wait for the device, where this package or Lightning asks for it.

    transformers asks once a forward pass whether there is padding, in its masking_utils.
    """

    def __init__(self, reads: Callable[[Tensor], None]):
        super().__init__()
        self.reads = reads

    names = ("item", "tolist", "cpu", "numpy", "nonzero", "masked_select", "equal")
    calls = frozenset(
        getattr(Tensor, name)
        for name in (*names, "__bool__", "__int__", "__float__", "__index__", "__contains__")
    )

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in self.calls:
            asked_by = sys._getframe(1).f_code
            where = asked_by.co_filename.rsplit("/", 1)[-1]
            if asked_by.co_name in ("_learn", "gradient"):
                self.reads(args[0])
                return function(*args, **(kwargs or {}))
            # the second asks what lies on the CPU anyway
            assert where == "masking_utils.py" or asked_by.co_name == "batches", function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_batch_size", [4, 2])
def test_the_update_waits_for_the_device_only_where_it_reads(
    tiny_t5: str,
    tiny_classifier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch_size: int,
) -> None:
    learn, reads = Learner.learn, []
    monkeypatch.setattr(Policy, "encodes_in_groups", False)  # as on a GPU

    def watched(*args: Any) -> Any:
        with Waiting(lambda numbers: reads.append(len(numbers))):
            return learn(*args)

    monkeypatch.setattr(Learner, "learn", watched)
    options = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1)}
    module = make_module(
        tiny_t5, tiny_classifier, micro_batch_size=micro_batch_size, early_stop_kl=9.0, **options
    )
    fit(tmp_path, module, rollouts=1)
    assert not equal(module.copies(), module.watched[0].before)
    # the responses' widths, and one a mini-batch: three terms, eight statistics, a norm
    assert reads == [8] + 4 * [3 + 8 + 1]

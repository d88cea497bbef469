"""When a mini-batch is skipped, a rollout's passes end early, or training gives up."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from detox_lightning.errors import TrainingError
from detox_lightning.models.policy import Policy
from detox_lightning.modules import ppo
from detox_lightning.modules.update import Reading
from ppo_toys import Liking, WatchedPPO, equal, fit, listen, make_module


class Turning(Liking):
    """Gives a score of its own from the second rollout on."""

    name = "turning"

    def __init__(self, later: float):
        super().__init__()
        self.later = later
        self.rollouts = 0

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        self.rollouts += 1
        scores = super().forward(prompts, responses, references)
        if self.rollouts > 1:
            scores[2] = self.later
        return scores


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
    meters = listen(monkeypatch, "update")
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
        meters = listen(patch, "update")
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


def test_a_loss_that_is_not_finite_stops_training(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """A score of 1e30 squares to infinity."""
    options = {"reward": Turning(1e30), "mini_batch_size": 8}
    module = make_module(tiny_t5, tiny_classifier, **options)
    with pytest.raises(TrainingError, match=r"rollout 1: the loss is inf.*scores far from 0"):
        fit(tmp_path, module, rollouts=3)
    assert optimizer_steps(module) == [2, 0]
    assert equal(module.copies(), module.watched[0].after)
    assert not equal(module.watched[0].after, module.watched[0].before)


@pytest.mark.parametrize("later", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_stops_training(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, later: float
) -> None:
    module = make_module(tiny_t5, tiny_classifier, reward=Turning(later))
    with pytest.raises(TrainingError) as raised:
        fit(tmp_path, module, rollouts=3)
    response = module.watched[1].scored[2]
    assert f"rollout 1: the reward 'turning' gave {later}" in str(raised.value)
    assert repr(response) in str(raised.value)
    assert equal(module.copies(), module.watched[0].after)


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
    update, read, reads = ppo.update, Reading.read, []
    monkeypatch.setattr(Policy, "reads_apart", False)  # as on a GPU

    def watched(*args: Any) -> Any:
        with Waiting():
            return update(*args)

    def reading(self: Reading) -> list[float]:
        with torch._C.DisableTorchFunction():
            reads.append(read(self))
        return reads[-1]

    monkeypatch.setattr(ppo, "update", watched)
    monkeypatch.setattr(Reading, "read", reading)
    options = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1)}
    module = make_module(
        tiny_t5, tiny_classifier, micro_batch_size=micro_batch_size, early_stop_kl=9.0, **options
    )
    fit(tmp_path, module, rollouts=1)
    assert not equal(module.copies(), module.watched[0].before)
    # the responses' widths, and one a mini-batch
    assert len([numbers for numbers in reads if len(numbers) > 1]) == 1 + 4

"""PPO's checkpoints: what they hold, and that a resumed run is the uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from detox_lightning.algorithm.advantages import Reinforce
from detox_lightning.algorithm.experience import ScoreShaping
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.errors import InputError
from detox_lightning.models.lora import LoRA
from detox_lightning.stages.optimization import Schedule
from ppo_toys import WatchedPPO, equal, fit, make_module

OPTIONS: dict[str, Any] = {
    "scores": ScoreShaping(scale=True, normalize=True),
    "kl": KLPenalty(target=0.1, horizon=100),
    "schedule": Schedule("linear"),
}


def saving(folder: Path) -> dict[str, Any]:
    every = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    return {"callbacks": [every], "enable_checkpointing": True}


@pytest.fixture(scope="module")
def whole(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[WatchedPPO, Path]:
    """Four rollouts at a stretch, saved after each."""
    folder = tmp_path_factory.mktemp("whole")
    module = make_module(tiny_t5, tiny_classifier, **OPTIONS)
    fit(folder, module, rollouts=4, **saving(folder))
    return module, folder


def opened(folder: Path, rollouts: int) -> dict[str, Any]:
    return torch.load(folder / f"epoch={rollouts - 1}.ckpt", weights_only=True)


def test_it_holds_what_learns_and_no_more(whole: tuple[WatchedPPO, Path]) -> None:
    module, folder = whole
    checkpoint = opened(folder, 2)
    assert checkpoint["state_dict"].keys() == module.copies().keys()
    assert equal(checkpoint["state_dict"], module.watched[1].after)
    facts = checkpoint["detox_lightning"]
    assert (facts["stage"], facts["rollouts"]) == ("ppo", 2)
    assert facts["moments"]["count"] == 16
    following = module.watched[2].metrics["objective/kl_coef"]
    assert facts["kl_coef"] == pytest.approx(following, rel=1e-6)
    assert (folder / "epoch=1.ckpt").stat().st_size < 200_000


@pytest.mark.parametrize("done", [1, 3])
def test_resumed_is_uninterrupted(
    whole: tuple[WatchedPPO, Path],
    tiny_t5: str,
    tiny_classifier: str,
    tmp_path: Path,
    done: int,
) -> None:
    """To the bit: weights, optimizer, schedule, KL coefficient, moments, what was sampled."""
    module, folder = whole
    torch.manual_seed(123)
    resumed = make_module(tiny_t5, tiny_classifier, **OPTIONS)
    checkpoint = folder / f"epoch={done - 1}.ckpt"
    fit(tmp_path, resumed, rollouts=4, ckpt_path=checkpoint, **saving(tmp_path))
    assert resumed.rollouts == module.rollouts == 4
    assert (resumed.kl_coef, resumed.moments) == (module.kl_coef, module.moments)
    assert equal(resumed.copies(), module.copies())
    for ours, theirs in zip(resumed.watched, module.watched[done:], strict=True):
        assert ours.scored == theirs.scored
        assert without_times(ours.metrics) == without_times(theirs.metrics)
    assert same(*(opened(where, 4)["optimizer_states"] for where in (tmp_path, folder)))
    assert same(*(opened(where, 4)["lr_schedulers"] for where in (tmp_path, folder)))


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def same(ours: Any, other: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(ours, dict):
        return ours.keys() == other.keys() and all(same(ours[key], other[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return all(same(x, y) for x, y in zip(ours, other, strict=True))
    return torch.equal(ours, other) if isinstance(ours, torch.Tensor) else bool(ours == other)


def test_an_adapter_of_another_shape_is_refused(
    whole: tuple[WatchedPPO, Path], tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    _, folder = whole
    module = make_module(tiny_t5, tiny_classifier, lora=LoRA(r=2), **OPTIONS)
    with pytest.raises(
        InputError, match=r"fit: model.lora.r is 2 here, 4 in the checkpoint; model"
    ):
        fit(tmp_path, module, rollouts=4, ckpt_path=folder / "epoch=0.ckpt")


def test_an_adapter_of_another_scale_and_a_missing_value_head_are_said(
    whole: tuple[WatchedPPO, Path], tiny_t5: str, tiny_classifier: str
) -> None:
    checkpoint = opened(whole[1], 1)
    module = make_module(tiny_t5, tiny_classifier, lora=LoRA(r=4, alpha=4, dropout=0.1), **OPTIONS)
    module.configure_model()
    message = "something else in this run: model.lora.alpha is 4 here, 8 in the checkpoint"
    with pytest.warns(UserWarning, match=message):
        module.on_load_checkpoint(checkpoint)
    module = make_module(
        tiny_t5, tiny_classifier, lora=LoRA(r=4, alpha=8), advantage=Reinforce(), **OPTIONS
    )
    module.configure_model()
    with pytest.raises(InputError, match=r"fit: model.advantage needs no value head here"):
        module.on_load_checkpoint(checkpoint)


def test_a_loaded_adapters_reference_is_not_saved_and_comes_back(
    whole: tuple[WatchedPPO, Path], tiny_classifier: str, tmp_path: Path
) -> None:
    """Training goes on from the checkpoint, and is compared with the adapter it began from."""
    start, _ = whole
    start.export(tmp_path / "adapter")
    name = str(tmp_path / "adapter")
    module = make_module(name, tiny_classifier)
    fit(tmp_path, module, rollouts=3, **saving(tmp_path))
    assert not [key for key in opened(tmp_path, 1)["state_dict"] if ".reference." in key]
    resumed = make_module(name, tiny_classifier)
    fit(tmp_path, resumed, rollouts=3, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert equal(resumed.copies(), module.copies())
    ours, theirs = (m.watched[-1].metrics["objective/kl"] for m in (resumed, module))
    assert ours == theirs != 0

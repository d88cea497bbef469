"""The moving average of what learns."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from command import run, tiny_recipe
from detox_lightning.callbacks.averaging import KEY, AveragingCallback, trainable
from detox_lightning.runs.checkpoint_reading import BrokenCheckpoint
from detox_lightning.runs.resume_callback import ResumeCallback

AVERAGED = "--trainer.callbacks+=detox_lightning.callbacks.averaging.AveragingCallback"
HALF = (AVERAGED, "--trainer.callbacks.decay=0.5")


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.chdir(tmp_path)
    return tiny_recipe(tmp_path, tiny_t5, tiny_classifier)


def fit(recipe: str, name: str, *words: str) -> dict[str, Any]:
    """What the last checkpoint of a run holds."""
    outcome = run("fit", "--config", recipe, f"--trainer.logger.name={name}", *HALF, *words)
    assert outcome.code == 0, outcome.err
    files = Path("runs", name).glob("*/checkpoints/last.ckpt")
    return torch.load(max(files, key=lambda file: file.stat().st_mtime), weights_only=True)


def test_it_moves_by_a_share_towards_the_weights() -> None:
    module = LightningModule()
    module.learns = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    module.frozen = torch.nn.Parameter(torch.tensor([3.0]), requires_grad=False)
    trainer: Any = type("T", (), {"global_step": 0})
    average = AveragingCallback(decay=0.75)
    average.on_train_start(trainer, module)
    module.learns.data += 4
    average.on_train_batch_end(trainer, module, None, None, 0)  # no step was taken
    assert average.other["learns"].tolist() == [1.0, 2.0]
    trainer.global_step = 2
    average.on_train_batch_end(trainer, module, None, None, 1)
    assert average.other["learns"].tolist() == [2.0, 3.0]
    average.on_validation_start(trainer, module)
    assert module.learns.tolist() == [2.0, 3.0]
    average.on_validation_end(trainer, module)
    assert module.learns.tolist() == [5.0, 6.0]
    assert list(average.other) == list(trainable(module)) == ["learns"]


@pytest.mark.slow
def test_a_run_goes_on_with_both(recipe: str) -> None:
    whole = fit(recipe, "whole", "--trainer.max_epochs=2")
    fit(recipe, "parts", "--trainer.max_epochs=1")
    parts = fit(recipe, "parts", "--trainer.max_epochs=2", "--ckpt_path=last")
    assert whole[KEY].keys() == whole["state_dict"].keys()
    for kind in (KEY, "state_dict"):
        for name, value in whole[kind].items():
            assert torch.equal(value, parts[kind][name]), name
    assert any(not torch.equal(x, whole[KEY][name]) for name, x in whole["state_dict"].items())


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"learns": torch.tensor([1.0, math.nan])}, "a tensor has weights that are NaN"),
        ({"learns": torch.tensor([1, 2])}, "its learns is of torch.int64, where"),
        ({"learns": torch.ones(1)}, f"its {KEY} don't fit the trained weights"),
        ({}, f"its {KEY} don't fit the trained weights"),
    ],
)
def test_broken_weights_beside_the_average_are_refused(
    trained: dict[str, torch.Tensor], said: str
) -> None:
    module = LightningModule()
    module.learns = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    checkpoint = {"state_dict": module.state_dict(), KEY: trained}
    with pytest.raises(BrokenCheckpoint, match=f"^the checkpoint is broken: {said}"):
        AveragingCallback().on_load_checkpoint(trainer, module, checkpoint)
    assert module.learns.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("averages", [False, True])
def test_a_run_without_the_callback_is_told_that_it_goes_on_from_the_average(
    averages: bool, recwarn: pytest.WarningsRecorder
) -> None:
    loops = {"fit_loop": {}}
    checkpoint = {"loops": loops, "callbacks": {"AveragingCallback": {"step": 2}}}
    callbacks = [AveragingCallback()] if averages else []
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"), callbacks=callbacks)
    ResumeCallback().on_load_checkpoint(trainer, LightningModule(), checkpoint)
    told = [str(warning.message) for warning in recwarn]
    assert any("averaged its weights" in line for line in told) is not averages


class Seen(Callback):
    """Notes what validation sees at the end of the run."""

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        Seen.weights = {name: x.detach().clone() for name, x in trainable(pl_module).items()}


def test_the_average_is_what_is_validated_and_exported(recipe: str) -> None:
    saved = fit(recipe, "seen", f"--trainer.callbacks+={__name__}.Seen")
    assert all(torch.equal(Seen.weights[name], x) for name, x in saved["state_dict"].items())
    [file] = Path("runs/seen").glob("*/adapter/adapter_model.safetensors")
    from safetensors.torch import load_file

    exported = sum(float(x.double().abs().sum()) for x in load_file(file).values())
    averaged = {name: x for name, x in saved["state_dict"].items() if "lora" in name}
    expected = sum(float(x.double().abs().sum()) for x in averaged.values())
    assert exported == pytest.approx(expected, rel=1e-9)

"""Weights that are NaN or infinite: neither opened, nor saved, nor written for others."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detox_lightning.callbacks.export import ExportCallback, write_export
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.precision import not_finite
from detox_lightning.modules import RewardModule, SupervisedModule
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from ppo_toys import fit, make_module
from toys import make_trainer, pairs_loader

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("number", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_of_them_is_found(number: float, dtype: torch.dtype) -> None:
    sound = torch.full((2, 3), torch.finfo(dtype).max, dtype=dtype)
    broken = torch.ones(5, dtype=dtype)
    assert not_finite([("a", sound), ("b", broken)]) == []
    broken[3] = number
    assert not_finite([("a", sound), ("b", broken), ("c", sound)]) == ["b"]


def test_what_has_no_such_numbers_is_left_alone() -> None:
    bits = torch.ones(3, dtype=torch.uint8)
    assert not_finite([("bits", bits), ("nothing", torch.ones(0))]) == []
    assert not_finite([("elsewhere", torch.ones(2, device="meta"))]) == []
    assert not_finite([]) == []


def spoilt(folder: str, to: Path) -> str:
    """A copy of a model's folder with one weight that is NaN."""
    shutil.copytree(folder, to)
    (file,) = to.glob("*model.safetensors")
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = NAN
    save_file(weights, file, {"format": "pt"})
    return str(to)


KINDS: dict[str, Callable[[str, str, str], Any]] = {
    "model.policy": lambda t5, encoder, classifier: make_module(t5, classifier, lora=None),
    "model.model": lambda t5, encoder, classifier: SupervisedModule(t5),
    "model.model ": lambda t5, encoder, classifier: RewardModule(encoder),
}


@pytest.mark.parametrize("flag", KINDS)
def test_models_with_them_are_refused(
    tiny_t5: str, tiny_encoder: str, tiny_classifier: str, tmp_path: Path, flag: str
) -> None:
    broken = [
        spoilt(folder, tmp_path / name)
        for name, folder in {"t5": tiny_t5, "encoder": tiny_encoder}.items()
    ]
    module = KINDS[flag](*broken, tiny_classifier)
    said = rf"^{flag.strip()} .*: (a tensor has|2 tensors have) weights that are NaN .* \(.+\): tr"
    with pytest.raises(InputError, match=said):
        module.configure_model()


def test_classifiers_with_them_are_refused(tiny_classifier: str, tmp_path: Path) -> None:
    name = spoilt(tiny_classifier, tmp_path / "classifier")
    with pytest.raises(InputError, match=rf"^the classifier '{name}': a tensor has weights"):
        TextClassifier(name).load()


def test_an_adapter_with_them_is_refused(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    module.configure_model()
    module.export(tmp_path / "adapter")
    name = spoilt(str(tmp_path / "adapter"), tmp_path / "broken")
    with pytest.raises(InputError, match=rf"^model.policy '{name}': 2 tensors have weights"):
        make_module(name, tiny_classifier).configure_model()  # the adapter, and the reference


@pytest.fixture(scope="module")
def broken(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Path]:
    """A checkpoint whose adapter is NaN."""
    folder = tmp_path_factory.mktemp("broken")
    options = {"callbacks": [BoundedCheckpoint(dirpath=folder)], "enable_checkpointing": True}
    fit(folder, make_module(tiny_t5, tiny_classifier), rollouts=1, **options)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    next(iter(checkpoint["state_dict"].values())).fill_(NAN)
    torch.save(checkpoint, folder / "broken.ckpt")
    return tiny_t5, tiny_classifier, folder / "broken.ckpt"


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "export"])
def test_checkpoints_with_them_are_refused(
    broken: tuple[str, str, Path], tmp_path: Path, verb: str
) -> None:
    *models, file = broken
    module, trainer = make_module(*models), make_trainer(tmp_path, max_epochs=2)
    given: dict[str, Any] = {"ckpt_path": file, "weights_only": True}
    run = getattr(trainer, verb, None)
    said = "the checkpoint is broken: a tensor has weights that are NaN .*previous.ckpt$"
    if verb == "export":
        export = ExportCallback(str(tmp_path / "out"))
        with pytest.raises(InputError, match=f"^--ckpt_path {file}: {said}"):
            export.write_checkpoint(trainer, module, file)
        assert not (tmp_path / "out").exists()
    else:
        with pytest.raises(InputError, match=f"^{said}"):
            run(module, pairs_loader(8, side=module.source.family.padding_side), **given)


def test_they_are_not_exported(tiny_t5: str, tmp_path: Path) -> None:
    module = SupervisedModule(tiny_t5)
    module.configure_model()
    next(module.parameters()).data[0] = INF
    with pytest.raises(TrainingError, match=r"out is not written: a tensor has weights that are"):
        write_export(module, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_policy_that_overflows_is_not_compared(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, verb: str
) -> None:
    """Its weights are finite, what it says is noise: such a one passed for a detoxified one."""
    module = make_module(tiny_t5, tiny_classifier)
    module.configure_model()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(1e38)
    said = r"^evaluation: the policy's log-probabilities are not finite: its weights are NaN or so"
    run = getattr(make_trainer(tmp_path), verb)
    with pytest.raises(TrainingError, match=said):
        run(module, pairs_loader(8, side=module.source.family.padding_side))

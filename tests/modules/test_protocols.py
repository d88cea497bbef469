"""Who is one of this package's stages and data modules, and who is somebody else's."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule, LightningModule

from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.protocols import as_stage, data_of, stage_of
from detox_lightning.stages import RewardModule, SupervisedModule


def trainer(**parts: Any) -> Any:
    return SimpleNamespace(**parts)


@pytest.mark.parametrize("kind", [SupervisedModule, RewardModule])
def test_stages_know_what_callbacks_ask_before_any_model_is_opened(kind: Any) -> None:
    module = kind("no/such-model")
    assert stage_of(trainer(lightning_module=module)) is as_stage(module) is module
    assert module.stage_name in ("supervised", "reward")
    assert (module.rollouts, module.samples, module.comparison) == (None, None, None)
    assert (module.faults.count, module.about) == (0, {})


def test_a_module_of_somebody_else_is_no_stage() -> None:
    for other in (trainer(lightning_module=LightningModule()), trainer(), None):
        assert stage_of(other) is None


def test_data_of_this_package_and_of_somebody_else() -> None:
    data = LabeledTextDataModule("no/such-data", max_tokens=9, batch_size=3)
    found = data_of(trainer(datamodule=data))
    assert found is data
    assert (found.max_prompt_tokens, found.max_target_tokens, found.batch_size) == (9, 0, 3)
    for other in (trainer(datamodule=LightningDataModule()), trainer(datamodule=None), None):
        assert data_of(other) is None

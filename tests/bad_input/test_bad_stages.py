"""What each stage refuses in its own way: precisions, and batches that don't divide."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bad_input.cases import Case, Place, check

HALF = (
    "trainer.precision=16-mixed: T5 and its family overflow in float16, and others' gradients "
    "would be clipped at the wrong size. Give bf16-mixed or 32-true"
)
ROUNDED = (
    "small steps are lost in weights that are held in bfloat16, adapters included, and figures are "
    "rounded. Give bf16-mixed or 32-true; model.weights.dtype=bfloat16 halves a frozen base"
)
PLUGIN = {
    "class_path": "lightning.pytorch.plugins.precision.HalfPrecision",
    "init_args": {"precision": "bf16-true"},
}


def stage(place: Place, model: dict[str, Any], **more: Any) -> Place:
    """The recipe with another module."""
    path = place.folder / "stage.yaml"
    config = yaml.safe_load(Path(place.recipe).read_text()) | {"model": model, **more}
    path.write_text(yaml.safe_dump(config))
    return place._replace(recipe=str(path))


def supervised(place: Place) -> Place:
    options = {"model": place.policy, "lora": {"r": 4}}
    return stage(place, {"class_path": "SupervisedModule", "init_args": options})


def classifier(place: Place) -> Place:
    options = {"model": place.classifier, "labels": ["nothate", "hate"]}
    model = {"class_path": "RewardModule", "init_args": options}
    data = {"class_path": "LabeledTextDataModule", "init_args": {"source": str(place.folder)}}
    return stage(place, model, data=data)


def same(place: Place) -> Place:
    return place


STAGES = {"ppo": same, "supervised": supervised, "classifier": classifier}


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--trainer.precision=16-mixed", HALF),
        ("--trainer.precision=bf16-true", f"trainer.precision=bf16-true: {ROUNDED}"),
        (f"--trainer.plugins={json.dumps([PLUGIN])}", f"trainer.plugins=bf16-true: {ROUNDED}"),
    ],
    ids=("16-mixed", "bf16-true", "plugin"),
)
def test_no_stage_loses_steps(kind: str, flag: str, message: str, place: Place) -> None:
    check(Case("", (flag,), message), STAGES[kind](place))


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_nor_are_figures_rounded(verb: str, place: Place) -> None:
    message = f"trainer.precision=bf16-true: {ROUNDED}"
    check(Case("", ("--trainer.precision=bf16-true",), message, verb=verb), place)


@pytest.mark.parametrize("estimator", ["GRPO", "RLOO"])
def test_responses_that_don_t_divide(estimator: str, place: Place) -> None:
    flags = (f"--model.advantage={estimator}", "--model.advantage.k=3", "--model.mini_batch_size=5")
    message = (
        "data.batch_size × 3 responses=24 is not a multiple of model.mini_batch_size=5: change one "
        "of them"
    )
    check(Case("", flags, message), place)

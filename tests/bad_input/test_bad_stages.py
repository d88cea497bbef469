"""What each stage refuses in its own way: float16, and batches that don't divide."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bad_input.cases import Case, Place, check

HALF = (
    "trainer.precision=16-mixed: T5 and its family overflow in float16, and others' gradients "
    "would be clipped at the wrong size. Give bf16-mixed, bf16-true or 32-true."
)


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


def test_supervised_is_not_trained_in_float16(place: Place) -> None:
    check(Case("", ("--trainer.precision=16-mixed",), HALF), supervised(place))


def test_a_classifier_is_not_trained_in_float16(place: Place) -> None:
    check(Case("", ("--trainer.precision=16-mixed",), HALF), classifier(place))


@pytest.mark.parametrize("estimator", ["GRPO", "RLOO"])
def test_responses_that_don_t_divide(estimator: str, place: Place) -> None:
    flags = (f"--model.advantage={estimator}", "--model.advantage.k=3", "--model.mini_batch_size=5")
    message = (
        "data.batch_size × 3 responses=24 is not a multiple of model.mini_batch_size=5: change one "
        "of them"
    )
    check(Case("", flags, message), place)

"""Texts with scores, for a stage that learns them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.errors import InputError

from .conftest import fake_trainer, write

Make = Callable[..., LabeledTextDataModule]


@pytest.fixture
def make(tmp_path: Path, words: str) -> Make:
    def make(rows: list[dict[str, Any]], *labels: str, **options: Any) -> LabeledTextDataModule:
        alone = {"validation_fraction": None, "test_split": "train", "batch_size": 2}
        source = write(tmp_path / options.pop("file", "rows.jsonl"), rows)
        data = LabeledTextDataModule(source, words, **{**alone, **options})
        data.trainer = fake_trainer(labels=list(labels), learns_scores=True)
        return data

    return make


def test_a_batch_by_hand(make: Make) -> None:
    rows = [{"text": "w1 w2", "rude": 0.25, "mean": 1}, {"text": "w3", "rude": 0.0, "mean": 0}]
    (batch,) = make(rows, "mean", "rude", label_column=["mean", "rude"]).test_dataloader()
    assert batch.input_ids.tolist() == [[7, 8], [9, 0]]
    assert batch.labels.tolist() == [[1.0, 0.25], [0.0, 0.0]]
    assert batch.labels.dtype == torch.float32
    (batch,) = make(rows, "any name", label_column="rude").test_dataloader()
    assert batch.labels.tolist() == [[0.25], [0.0]]


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.csv"])
def test_texts_without_a_score_are_left_out_and_told(
    make: Make, logged: list[str], file: str
) -> None:
    scores: list[Any] = [0.5, None, 0.25, None]
    rows = [{"text": f"w{i}", "score": score} for i, score in enumerate(scores)]
    data = make(rows, "toxicity", label_column="score", file=file)
    with pytest.warns(UserWarning, match="have no score") as told:
        assert data.rows("test")["label"][:] == [[0.5], [0.25]]
    assert str(told[0].message) == (
        f"--data.label_column=score: 2 of 4 rows of {data.sources[0]} have no score and are left "
        "out, the first of them row 2"
    )
    assert logged == ["test: 4 rows, 2 with a label"]


@pytest.mark.parametrize(
    ("labels", "column", "reason"),
    [
        (["a", "b"], "x", "one for each of --model.labels=['a', 'b']"),
        (["a"], ["x", "y"], "one for each of --model.labels=['a']"),
    ],
)
def test_as_many_columns_as_labels(
    make: Make, labels: list[str], column: str | list[str], reason: str
) -> None:
    data = make([{"text": "w1", "x": 0.5, "y": 0.5}], *labels, label_column=column)
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == f"--data.label_column={column}: give {reason}"


def test_scores_have_no_names(make: Make) -> None:
    rows = [{"text": "w1", "label": 0.5}]
    data = make(rows, "toxicity", label_map={"hate": "toxicity"})
    with pytest.raises(
        InputError, match=r"^--data.label_map={'hate': 'toxicity'}: .* leave it out"
    ):
        data.rows("train")


def test_classes_have_one_column(make: Make) -> None:
    data = make([{"text": "w1", "x": "hate", "y": "hate"}], label_column=["x", "y"])
    data.trainer = fake_trainer()
    with pytest.raises(InputError, match=r"give a single column; --model.target=scores takes sev"):
        data.rows("train")


@pytest.mark.parametrize("value", [95, -0.5, float("inf")])
def test_values_that_are_no_scores(make: Make, value: float) -> None:
    rows = [{"text": "w1", "score": 0.5}, {"text": "w2", "score": value}]
    data = make(rows, "toxicity", label_column="score", file="rows.parquet")
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"--data.label_column=score: in {data.sources[0]} this column has the value {value:g} in "
        "row 2, which is not from 0 to 1; name another or convert it"
    )

"""What is written of predictions, where, and that nothing is written over."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.errors import InputError
from toys import make_trainer

TEXTS = [f'{i}: "Ünder\nlines" \u2028 and \x00 too' for i in range(7)]


class Echo(LightningModule):
    """Says what it hears, as a row, as text, or as numbers."""

    def __init__(self, form: str):
        super().__init__()
        self.form = form

    def predict_step(self, batch: list[str], batch_idx: int) -> Any:
        if self.form == "tensor":
            return torch.tensor([[len(text), batch_idx] for text in batch]) / 2
        return [
            {"prompt": text, "after": text[0]} if self.form == "row" else text for text in batch
        ]


def predict(folder: Path, callback: PredictionsCallback, form: str = "row", **options: Any) -> None:
    trainer = make_trainer(folder, callbacks=[callback], **options)
    trainer.predict(Echo(form), DataLoader(TEXTS, batch_size=3))


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").split("\n")[:-1]]


def test_a_row_a_prompt_in_order(tmp_path: Path) -> None:
    predict(tmp_path, PredictionsCallback(str(tmp_path / "new" / "rows.jsonl")))
    rows = read(tmp_path / "new" / "rows.jsonl")
    assert rows == [{"prompt": text, "after": text[0]} for text in TEXTS]


def test_texts_become_rows(tmp_path: Path) -> None:
    predict(tmp_path, PredictionsCallback(str(tmp_path / "rows.jsonl")), form="text")
    assert read(tmp_path / "rows.jsonl") == [{"response": text} for text in TEXTS]


def test_numbers_become_rows(tmp_path: Path) -> None:
    predict(tmp_path, PredictionsCallback(str(tmp_path / "rows.jsonl")), form="tensor")
    rows = read(tmp_path / "rows.jsonl")
    assert rows[4] == {"prediction": [len(TEXTS[4]) / 2, 0.5]}
    assert len(rows) == 7


def test_by_default_in_the_run_s_folder(tmp_path: Path) -> None:
    predict(tmp_path, PredictionsCallback(), logger=CSVLogger(tmp_path, "named"))
    assert len(read(tmp_path / "named" / "version_0" / "predictions.jsonl")) == 7
    predict(tmp_path, PredictionsCallback(), logger=CSVLogger(tmp_path, "named"))
    assert len(read(tmp_path / "named" / "version_1" / "predictions.jsonl")) == 7


def test_refuses_to_overwrite_before_it_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("mine")
    monkeypatch.setattr(Echo, "predict_step", lambda *_: pytest.fail("predicted"))
    with pytest.raises(InputError) as caught:
        predict(tmp_path, PredictionsCallback(str(file)))
    assert str(caught.value) == f"predictions.file={file} exists: name a new file, or remove it"
    assert file.read_text() == "mine"


def test_other_verbs_need_no_new_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("mine")
    PredictionsCallback(str(file)).setup(make_trainer(tmp_path), Echo("row"), "fit")

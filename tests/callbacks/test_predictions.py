"""What is written of predictions, where, in which order, and that nothing is written over."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

import predicting
from command import run
from conftest import word_tokenizer
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.errors import InputError
from launching import codes, elastic, started
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


def test_without_a_name_they_are_numbered(tmp_path: Path) -> None:
    """Without a logger all runs have the same folder."""
    for form in ("row", "text", "tensor"):
        predict(tmp_path, PredictionsCallback(), form)
    names = ["predictions.jsonl", "predictions-1.jsonl", "predictions-2.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    keys = [list(read(tmp_path / name)[0]) for name in names]
    assert keys == [["prompt", "after"], ["response"], ["prediction"]]
    predict(tmp_path, PredictionsCallback(append=True), "text")
    assert len(read(tmp_path / names[0])) == 14


def test_refuses_to_overwrite_before_it_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("mine")
    monkeypatch.setattr(Echo, "predict_step", lambda *_: pytest.fail("predicted"))
    with pytest.raises(InputError) as caught:
        predict(tmp_path, PredictionsCallback(str(file)))
    assert str(caught.value) == (
        f"predictions.file={file} exists: name a new file, remove it, or add to it with "
        "predictions.append=true"
    )
    assert file.read_text() == "mine"
    with pytest.raises(InputError, match=f"predictions.file={tmp_path} exists"):
        predict(tmp_path, PredictionsCallback(str(tmp_path), append=True))


@pytest.mark.parametrize("before", ['{"mine": 1}\n', '{"mine": 1}'])
def test_adds_to_a_file_if_told(tmp_path: Path, before: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(before)
    callback = PredictionsCallback(str(file), append=True)
    predict(tmp_path, callback, form="text")
    assert read(file) == [{"mine": 1}] + [{"response": text} for text in TEXTS]
    predict(tmp_path, callback, form="text")
    assert len(read(file)) == 1 + 2 * 7
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("empty", [False, True])
def test_begins_a_file_to_add_to(tmp_path: Path, empty: bool) -> None:
    file = tmp_path / "rows.jsonl"
    if empty:
        file.touch()
    predict(tmp_path, PredictionsCallback(str(file), append=True), form="text")
    assert read(file) == [{"response": text} for text in TEXTS]


def test_tells_how_many_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    predict(tmp_path, PredictionsCallback(str(file)))
    assert f"7 predictions in {file}\n" in capsys.readouterr().out
    predict(tmp_path, PredictionsCallback(str(file), append=True))
    assert f"7 predictions added to {file}\n" in capsys.readouterr().out


def test_text_stays_readable(tmp_path: Path) -> None:
    predict(tmp_path, PredictionsCallback(str(tmp_path / "rows.jsonl")))
    assert "Ünder" in (tmp_path / "rows.jsonl").read_text(encoding="utf8")


def test_the_data_s_order_is_not_the_loader_s(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    order = [6, 1, 5, 2, 0, 3, 4]
    trainer = make_trainer(tmp_path, callbacks=[PredictionsCallback(str(file))])
    trainer.predict(Echo("text"), DataLoader(TEXTS, batch_size=2, sampler=order))
    assert read(file) == [{"response": text} for text in TEXTS]


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
def test_batches_of_unknown_places_stay_in_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    trainer = make_trainer(tmp_path, callbacks=[PredictionsCallback(str(file))])
    trainer.predict(Echo("text"), DataLoader([TEXTS[:3], TEXTS[3:]], batch_size=None))
    assert read(file) == [{"response": text} for text in TEXTS]


def test_a_broken_run_leaves_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, partial = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.partial"
    step = Echo.predict_step

    def breaks(self: Echo, batch: list[str], batch_idx: int) -> Any:
        if batch_idx == 2:
            raise KeyError("broken")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Echo, "predict_step", breaks)
    with pytest.raises(KeyError, match="broken"):
        predict(tmp_path, PredictionsCallback(str(file)), form="text")
    monkeypatch.undo()
    assert read(partial) == [{"response": text} for text in TEXTS[:6]]
    assert not file.exists()
    with pytest.raises(InputError) as caught:
        predict(tmp_path, PredictionsCallback(str(file)), form="text")
    assert str(caught.value) == (
        f"predictions.file={file}: {partial} holds the predictions of a run that was interrupted; "
        "rename it to keep it, or remove it"
    )
    partial.unlink()
    predict(tmp_path, PredictionsCallback(str(file)), form="text")
    assert len(read(file)) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_other_verbs_need_no_new_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("mine")
    PredictionsCallback(str(file)).setup(make_trainer(tmp_path), Echo("row"), "fit")


def test_the_command_line_answers_standard_input(
    tmp_path: Path, tiny_t5: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    lines = ["Ann : glad", "Bob : sad and late", "Ann : glad"]
    model = ("--model=SupervisedModule", f"--model.model={tiny_t5}", "--model.max_new_tokens=4")
    data = ("--data=DialogueDataModule", "--data.source=none", "--data.batch_size=2")
    words = (*model, *data, "--data.predict_source", "-", "--trainer.accelerator=cpu")

    def answers(*lines: str) -> list[str]:
        typed = io.BytesIO("\n".join(lines).encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(typed))
        file = f"{len(list(tmp_path.iterdir()))}.jsonl"
        outcome = run("predict", *words, f"--predictions.file={file}")
        assert outcome.code == 0, outcome.err
        assert f"{len(lines)} predictions in {file}\n" in outcome.out
        return [row["response"] for row in read(tmp_path / file)]

    together = answers(*lines)
    assert together == [answers(line)[0] for line in lines]
    assert together[0] != together[1]


# -- two processes


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have predicted."""
    folder = tmp_path_factory.mktemp("predicted")
    word_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "asked.txt").write_text("".join(f"{line}\n" for line in predicting.DIALOGUES))
    with started(folder, elastic(), predicting.everything, folder) as begun:
        assert codes(begun) == [0, 0], (folder / "output1").read_text()
    return folder


def test_two_processes_write_one_file_in_order(predicted: Path) -> None:
    rows = read(predicted / "rows.jsonl")
    assert [row["prompt"] for row in rows] == predicting.DIALOGUES
    # the places that the data module gives are those by which the rows were sorted
    assert [row["place"] for row in rows] == list(range(5))
    assert [row["rank"] for row in rows] == [0, 1, 0, 1, 0]
    assert f"5 predictions in {predicted / 'rows.jsonl'}\n" in (predicted / "output0").read_text()


def test_lightnings_sampler_keeps_the_order_too(predicted: Path) -> None:
    rows = read(predicted / "added.jsonl")
    assert [row["response"] for row in rows] == ["mine", *predicting.DIALOGUES]
    assert not list(predicted.glob("*.partial"))

"""Files of each kind and standard input: every row is answered, or a message says why not."""

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import LightningModule

from detox_lightning.batches import PromptBatch
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.data.predict_rows import PredictRows
from detox_lightning.errors import InputError

from .conftest import Make, write
from .test_jobs import trainer

utf8 = str.encode
COLUMNS = ("dialogue", "summary", "clean")
# out of order, one of them twice; longer and shorter than the bounds on other rows
ASKED = ["w3 w1 w2", "w1", "w3 w1 w2", "w2 zz"]


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """What standard input holds, whatever the terminal's encoding is."""
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stream)


class Heard(LightningModule):
    """Remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[PromptBatch] = []

    def predict_step(self, batch: PromptBatch, index: int) -> list[str]:
        self.batches.append(batch)
        return batch.prompts

    def test_step(self, batch: PromptBatch, index: int) -> None:
        self.batches.append(batch)


def predict(data: DialogueDataModule) -> list[PromptBatch]:
    model = Heard()
    trainer().predict(model, data)
    return model.batches


def prompts(data: DialogueDataModule) -> list[str]:
    return [prompt for batch in predict(data) for prompt in batch.prompts]


def failure(source: str) -> str:
    with pytest.raises(InputError) as caught:
        PredictRows(source, COLUMNS, "dialogue").read()
    return str(caught.value)


# -- what is answered


@pytest.mark.parametrize(
    "name", ["q.jsonl", "q.jsonl.gz", "q.json", "q.csv", "q.csv.gz", "q.parquet"]
)
def test_files_with_columns(tmp_path: Path, make: Make, name: str) -> None:
    source = write(tmp_path / name, [{"extra": "no", "dialogue": text} for text in ASKED])
    first, second = predict(make(predict_source=source, min_chars=3, max_chars=6))
    assert first.prompts + second.prompts == [f"Say : {text} Short :" for text in ASKED]
    assert first.prompt_ids.tolist() == [[3, 4, 9, 7, 8, 5, 4], [3, 4, 7, 5, 4, 0, 0]]
    assert first.references + second.references == [""] * 4
    assert first.places.tolist() + second.places.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["q.txt", "q.txt.gz"])
def test_text_files_with_a_dialogue_a_line(tmp_path: Path, make: Make, name: str) -> None:
    """With the marks that Windows leaves, and blank lines at the end."""
    source = tmp_path / name
    lines = ["\ufeff" + ASKED[0], *ASKED[1:], "", " \t", ""]
    opened = gzip.open if name.endswith("gz") else open
    with opened(source, "wb") as file:
        file.write(utf8("\r\n".join(lines)))
    assert prompts(make(predict_source=str(source))) == [f"Say : {text} Short :" for text in ASKED]


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    dialogues = ["Ann: \u2028 hi \x0c ho\x85 ", " Bob: … \x1c{}  "]
    source = tmp_path / "q.txt"
    source.write_bytes(utf8("\n".join(dialogues)))
    assert PredictRows(str(source), COLUMNS, "dialogue").read()["dialogue"][:] == dialogues


@pytest.mark.parametrize("as_json", [False, True])
def test_standard_input_is_read_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    lines = [json.dumps({"dialogue": text}) if as_json else text for text in ASKED]
    typed(monkeypatch, utf8("\n".join(lines)))
    data = make(predict_source="-")
    wanted = [f"Say : {text} Short :" for text in ASKED]
    assert prompts(data) == wanted
    assert prompts(data) == wanted
    assert sys.stdin.buffer.read() == b""


def test_standard_input_is_utf_8_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, utf8("Zoë: ça va ? 🙂\n"))
    assert PredictRows("-", COLUMNS, "dialogue").read()["dialogue"][:] == ["Zoë: ça va ? 🙂"]


def test_what_else_a_row_says_is_kept(tmp_path: Path, make: Make) -> None:
    rows = [
        {"dialogue": "w1", "summary": "w2 w3", "clean": "nice"},
        {"dialogue": "w2", "summary": None, "clean": None},
    ]
    source = write(tmp_path / "q.jsonl", rows)
    (batch,) = predict(make(predict_source=source, reference_column="clean"))
    assert batch.references == ["nice", ""]
    assert batch.target_ids.tolist() == [[8, 9, 1], [1, 0, 0]]
    (other,) = predict(make(predict_source=write(tmp_path / "q.csv", rows)))
    assert other.references == ["w2 w3", ""]


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    rows = [{"dialogue": "w1", "summary": 3, "n": [1, "a"]}, {"dialogue": "w2", "n": {"b": None}}]
    source = write(tmp_path / "q.jsonl", rows)
    assert PredictRows(source, COLUMNS, "dialogue").read().to_dict() == {
        "dialogue": ["w1", "w2"],
        "summary": ["", ""],
        "clean": ["", ""],
    }


def test_no_limit_drops_a_row(tmp_path: Path, make: Make) -> None:
    source = write(tmp_path / "q.jsonl", [{"dialogue": text} for text in ASKED * 3])
    data = make(
        predict_source=source, num_samples=1, num_eval_samples=1, min_chars=50, max_chars=60
    )
    assert len(prompts(data)) == 12


def test_long_dialogues_are_cut_and_counted(tmp_path: Path, make: Make, logged: list[str]) -> None:
    source = write(tmp_path / "q.jsonl", [{"dialogue": text} for text in ASKED])
    data = make(predict_source=source, max_prompt_tokens=6)
    cut = "Say : w3 w1  Short :"
    assert prompts(data) == [cut, "Say : w1 Short :", cut, "Say : w2 zz Short :"]
    assert logged[-1] == "predict: 4 rows; 2 dialogues were cut to prompts of 6 tokens"


def test_a_bare_template_takes_whole_prompts(tmp_path: Path, make: Make) -> None:
    source = tmp_path / "q.txt"
    source.write_text("Say w1\nw2\n")
    assert prompts(make(predict_source=str(source), template="{dialogue}")) == ["Say w1", "w2"]


def test_lines_are_kept_in_no_cache(
    tmp_path: Path, make: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.txt").write_text("w1\nw2\n")
    jsonl = write(tmp_path / "q.jsonl", [{"dialogue": "w1"}])
    typed(monkeypatch, b"w1\nw2\n")
    for source in (str(tmp_path / "q.txt"), jsonl, "-"):
        assert prompts(make(source="none", predict_source=source))
    assert not list(cache.rglob("*"))


def test_workers_get_the_rows_too(tmp_path: Path, make: Make) -> None:
    source = write(tmp_path / "q.jsonl", [{"dialogue": text} for text in ASKED])
    data = make(predict_source=source, num_workers=1, batch_size=1)
    assert prompts(data) == [f"Say : {text} Short :" for text in ASKED]


def test_other_jobs_do_not_ask_for_it(make: Make) -> None:
    data = make(predict_source="none.txt")
    model = Heard()
    trainer().test(model, data)
    assert model.batches[0].prompts == ["Say : w0 w6 Short :", "Say : w0 w7 Short :"]


def test_the_source_is_not_asked_for(tmp_path: Path, make: Make) -> None:
    source = write(tmp_path / "q.jsonl", [{"dialogue": "w1"}])
    data = make(source="./none.jsonl", predict_source=source)
    assert prompts(data) == ["Say : w1 Short :"]


# -- what is refused


@pytest.mark.parametrize(
    ("content", "number"), [("w1\n\nw2\n", 2), (" \nw1", 1), ("a\n\tb\n\t\nc", 3)]
)
def test_blank_lines_are_named(tmp_path: Path, content: str, number: int) -> None:
    source = tmp_path / "q.txt"
    source.write_text(content)
    assert failure(str(source)) == (
        f"--data.predict_source={source}: line {number} has no text to answer; "
        "fill it in or remove it"
    )


@pytest.mark.parametrize("line", ["", '{"dialogue": ""}', '{"dialogue": null}', '{"dialogue": 5}'])
def test_empty_dialogues_are_named(tmp_path: Path, line: str) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text(f'{{"dialogue": "w1"}}\n{line}\n{{"dialogue": "w1"}}\n')
    assert failure(str(source)) == (
        f"--data.predict_source={source}: line 2 has no text to answer; fill it in or remove it"
    )


@pytest.mark.parametrize("name", ["q.json", "q.csv", "q.parquet"])
def test_rows_of_tables_are_counted_from_one(tmp_path: Path, name: str) -> None:
    rows = [{"dialogue": text, "id": "a"} for text in ("w1", "w2", " ")]
    source = write(tmp_path / name, rows)
    assert failure(source).startswith(
        f"--data.predict_source={source}: row 3 has no text to answer"
    )


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.parquet"])
def test_a_missing_column_is_named_with_those_there(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, [{"text": "w1", "id": "a"}])
    where = " in line 1" if name == "q.jsonl" else ""
    assert failure(source) == (
        f"--data.dialogue_column=dialogue: {source} has no such column{where}; it has text, id"
    )


@pytest.mark.parametrize(
    "line", ["w1 w2", "[1]", '{"dialogue": "w1"', '{"dialogue": "\\ud83d"}', "5"]
)
def test_what_is_no_object_is_shown(tmp_path: Path, line: str) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text(f'{{"dialogue": "w1"}}\n{line}\n')
    assert failure(str(source)) == (
        f"--data.predict_source={source}: line 2 isn't a JSON object: {line!r}; "
        "give one on each line"
    )


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_the_line_that_is_not_utf_8_is_named(tmp_path: Path, start: bytes) -> None:
    source = tmp_path / "q.txt"
    source.write_bytes(start + utf8("é\nw1\n") + "é\nw2".encode("latin1"))
    assert failure(str(source)) == (
        f"--data.predict_source={source}: line 3 isn't UTF-8; convert the text"
    )


def test_nothing_is_no_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = "there is nothing to answer; give one dialogue per line"
    for name, content in (("q.txt", b""), ("q.jsonl", b"\n"), ("q.txt", b"\xef\xbb\xbf \r\n")):
        source = tmp_path / name
        source.write_bytes(content)
        assert failure(str(source)) == f"--data.predict_source={source}: {empty}"
    typed(monkeypatch, b"\n\n")
    assert failure("-") == f"--data.predict_source=-: {empty}"
    monkeypatch.setattr(sys, "stdin", None)  # as where it is closed
    assert failure("-") == f"--data.predict_source=-: {empty}"
    (tmp_path / "q.csv").write_bytes(b"")
    assert failure(str(tmp_path / "q.csv")) == (
        f"{tmp_path}/q.csv: the file is empty; give one with rows"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent = "there is no such file; check the path, or give - to read a pipe"
    source = tmp_path / "none.txt"
    assert failure(str(source)) == f"--data.predict_source={source}: {absent}"
    for name in ("q.pdf", "q"):
        source = tmp_path / name
        source.write_text("w1")
        assert failure(str(source)) == (
            f"--data.predict_source={source}: unknown kind of file; readable are .txt, .jsonl, "
            ".json, .csv and .tsv (each also with .gz) and .parquet"
        )
    source = tmp_path / "q.txt.gz"
    packed = gzip.compress(bytes(range(256)))
    for broken in (b"no gzip", packed[:-12], packed[:10] + b"\xff" * 20 + packed[30:]):
        source.write_bytes(broken)
        message = failure(str(source))
        assert message.startswith(f"--data.predict_source={source}: can't be read (")
        assert message.endswith("); repair or replace the file")


def test_processes_do_not_share_standard_input(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, b"w1\n")
    data = make(predict_source="-")
    data.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    with pytest.raises(InputError) as caught:
        data.rows("predict")
    assert str(caught.value) == (
        "--data.predict_source=-: 2 processes can't share standard input; give a file, or "
        "--trainer.devices=1 --trainer.num_nodes=1"
    )
    assert sys.stdin.buffer.read() == b"w1\n"


def test_it_is_read_before_the_model_is_opened(make: Make) -> None:
    class Unopened(Heard):
        def configure_model(self) -> None:
            pytest.fail("opened a model")

    with pytest.raises(InputError, match=r"none\.txt: there is no such file"):
        trainer().predict(Unopened(), make(predict_source="none.txt", tokenizer="./none"))

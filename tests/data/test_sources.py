import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from detox_lightning import demo
from detox_lightning.data.sources import (
    MissingSplit,
    available_splits,
    check_labels,
    check_text,
    load_rows,
)
from detox_lightning.errors import InputError

from .conftest import write

ROWS = [{"text": "grüße, all", "label": "hate"}, {"text": 'a "b"\nc', "label": "nothate"}]
NAMES = ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_kind_is_the_split_train(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, ROWS)
    assert available_splits(source) == ["train"]
    assert load_rows(source, "train").to_list() == ROWS


def test_a_folder_has_one_file_a_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl.gz", ROWS)
    write(tmp_path / "test.csv", ROWS[1:])
    (tmp_path / "README.md").write_text("no data")
    assert available_splits(str(tmp_path)) == ["test", "train"]
    assert load_rows(str(tmp_path), "train").to_list() == ROWS
    assert load_rows(str(tmp_path), "test").to_list() == ROWS[1:]


def test_demo_names_what_the_package_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "ASSETS", tmp_path)
    (tmp_path / "talks").mkdir()
    write(tmp_path / "talks" / "train.jsonl", ROWS)
    assert load_rows("demo:talks", "train").to_list() == ROWS


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    assert len(load_rows(source, "train")) == 2
    write(tmp_path / "a.jsonl", ROWS * 2)
    assert len(load_rows(source, "train")) == 4


def empty(folder: Path) -> str:
    (folder / "a.jsonl").touch()
    return str(folder / "a.jsonl")


def blank(folder: Path) -> str:
    (folder / "a.jsonl").write_text("\n\n")
    return str(folder / "a.jsonl")


def header_only(folder: Path) -> str:
    (folder / "a.csv").write_text("text,label\n")
    return str(folder / "a.csv")


def unknown_suffix(folder: Path) -> str:
    (folder / "a.xlsx").write_text("1")
    return str(folder / "a.xlsx")


def doubled(folder: Path) -> str:
    write(folder / "train.csv", ROWS)
    write(folder / "train.jsonl", ROWS)
    return str(folder)


def latin1(folder: Path) -> str:
    (folder / "a.csv").write_bytes("text\ngrüße\n".encode("latin1"))
    return str(folder / "a.csv")


def truncated(folder: Path) -> str:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "hello"}\n' * 1000)[:30])
    return str(folder / "a.jsonl.gz")


def not_zipped(folder: Path) -> str:
    (folder / "a.csv.gz").write_text("text,label\n")
    return str(folder / "a.csv.gz")


def not_parquet(folder: Path) -> str:
    (folder / "a.parquet").write_text("nope")
    return str(folder / "a.parquet")


def half_a_row(folder: Path) -> str:
    (folder / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "la')
    return str(folder / "a.jsonl")


READABLE = "readable are .jsonl, .json and .csv (each also with .gz) and .parquet"
BROKEN: list[tuple[Callable[[Path], str], str]] = [
    (lambda folder: f"{folder}/b.jsonl", "{}: there is no such file or folder; check the path"),
    (lambda folder: "b.csv", "{}: there is no such file or folder; check the path"),
    (empty, "{}: the file is empty; give one with rows"),
    (blank, "{}: the file holds no rows; give one that does"),
    (header_only, "{}: the file holds no rows; give one that does"),
    (unknown_suffix, "{}: unknown kind of file; " + READABLE),
    (
        str,
        "{}: no data files in this folder; it should hold train.jsonl, validation.jsonl, …; "
        + READABLE,
    ),
    (doubled, "{}: train.csv and train.jsonl are both the split 'train'; remove one of them"),
    (
        latin1,
        "{}: can't be read as csv in UTF-8 (UnicodeDecodeError: 'utf-8' codec can't decode byte "
        "0xfc in position 2: invalid start byte); mend or replace the file",
    ),
    (
        truncated,
        "{}: can't be read as json in UTF-8 (EOFError: Compressed file ended before the "
        "end-of-stream marker was reached); mend or replace the file",
    ),
    (
        not_zipped,
        "{}: can't be read as csv in UTF-8 (BadGzipFile: Not a gzipped file (b'te')); "
        "mend or replace the file",
    ),
    (
        not_parquet,
        "{}: can't be read as parquet in UTF-8 (ArrowInvalid: Parquet file size is 4 bytes, "
        "smaller than the minimum file footer (8 bytes)); mend or replace the file",
    ),
]


@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_a_broken_source_is_named(
    tmp_path: Path, make: Callable[[Path], str], message: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = make(folder)
    with pytest.raises(InputError) as caught:
        load_rows(source, "train")
    assert str(caught.value) == message.format(source)


def test_half_a_row_is_named(tmp_path: Path) -> None:
    source = half_a_row(tmp_path)
    with pytest.raises(InputError, match=f"^{source}: can't be read as json in UTF-8 "):
        load_rows(source, "train")


def test_json_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "grüße"}\n'.encode("latin1"))
    rows = load_rows(str(tmp_path / "a.jsonl"), "train")
    with pytest.raises(InputError) as caught:
        check_text(rows, "text", "--data.text_column", "a.jsonl")
    assert str(caught.value) == (
        "--data.text_column=text: in a.jsonl this column isn't UTF-8 (In chunk 0: Invalid: "
        "Invalid UTF8 sequence at string index 0); convert the file"
    )


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(MissingSplit) as caught:
        load_rows(source, "dev", "--data.validation_split")
    assert str(caught.value) == f"--data.validation_split=dev: {source} has only train"


HUB_FAILURES = [
    (
        ConnectionError("Couldn't reach 'a/b' on the Hub"),
        "a/b: the hub can't be reached (Couldn't reach 'a/b' on the Hub). To work offline, "
        "download it elsewhere and give the local folder with train.jsonl, validation.jsonl, … "
        "instead",
    ),
    (
        datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist"),
        "a/b: neither a file or folder here nor a dataset on the hub (Dataset 'a/b' doesn't "
        "exist); give a hub id, demo:NAME, a local folder or a json, jsonl, csv or parquet file",
    ),
    (
        ValueError("Unknown split \"train\". Should be one of ['all', 'few']."),
        "split=train: a/b has only ['all', 'few']",
    ),
]


@pytest.mark.parametrize(("failure", "message"), HUB_FAILURES)
def test_a_hub_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    with pytest.raises(InputError) as caught:
        load_rows("a/b", "train")
    assert str(caught.value) == message
    if "Unknown split" not in str(failure):
        with pytest.raises(InputError) as caught:
            available_splits("a/b")
        assert str(caught.value) == message


def test_columns_are_checked() -> None:
    rows = datasets.Dataset.from_dict({"text": ["a"], "size": [1], "score": [0.5], "gone": [None]})
    check_text(rows, "text", "--data.text_column", "x")
    check_labels(rows, "size", "--data.label_column", "x")
    check_labels(rows, "text", "--data.label_column", "x")
    cases = [
        (
            check_text,
            "txt",
            "--f=txt: x has no such column; it has text, size, score, gone",
        ),
        (
            check_text,
            "size",
            "--f=size: in x this column holds int64, not text; its text columns are text",
        ),
        (
            check_text,
            "gone",
            "--f=gone: in x this column holds null, not text; its text columns are text",
        ),
        (
            check_labels,
            "score",
            "--f=score: in x this column holds float64, neither names nor whole numbers; "
            "name another or convert it",
        ),
        (check_labels, "l", "--f=l: x has no such column; it has text, size, score, gone"),
    ]
    for check, column, message in cases:
        with pytest.raises(InputError) as caught:
            check(rows, column, "--f", "x")
        assert str(caught.value) == message

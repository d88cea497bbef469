from pathlib import Path
from typing import Any

import datasets
import pytest

from detox_lightning import demo
from detox_lightning.data.sources import (
    MissingSplit,
    check_column,
    load_rows,
)
from detox_lightning.errors import InputError

from .conftest import write

ROWS = [{"text": "grüße, all", "label": "hate"}, {"text": 'a "b"\nc', "label": "nothate"}]
NAMES = ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_kind_is_the_split_train(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, ROWS)
    assert load_rows(source, "train").to_list() == ROWS


def test_a_folder_has_one_file_a_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl.gz", ROWS)
    write(tmp_path / "test.csv", ROWS[1:])
    (tmp_path / "README.md").write_text("no data")
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


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        write(tmp_path / name, [{"text": "a"}])
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
        assert load_rows(str(tmp_path / name), "train").to_list() == [{"text": "a"}]


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(MissingSplit) as caught:
        load_rows(source, "dev", "--data.validation_split")
    assert (
        str(caught.value) == f"--data.validation_split=dev: {source} has no split 'dev', only train"
    )


HUB_FAILURES = [
    (
        ConnectionError("Couldn't reach 'a/b' on the Hub"),
        "a/b: there is no such file or folder here, and the hub can't be reached (Couldn't reach "
        "'a/b' on the Hub); download it elsewhere and give the local folder with train.jsonl, "
        "validation.jsonl, … instead. HF_HUB_OFFLINE=1 reads the cache alone, without waiting for "
        "the hub",
    ),
    (
        datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist"),
        "a/b: neither a file or folder here nor a dataset on the hub (Dataset 'a/b' doesn't "
        "exist); give a hub id, demo:NAME, a local folder or a json, jsonl, csv, tsv or "
        "parquet file",
    ),
    (
        ValueError("Unknown split \"train\". Should be one of ['all', 'few']."),
        "split=train: a/b has no split 'train', only ['all', 'few']",
    ),
]


@pytest.mark.parametrize(("failure", "message"), HUB_FAILURES)
def test_a_hub_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError) as caught:
        load_rows("a/b", "train")
    assert str(caught.value) == message


def test_columns_are_checked() -> None:
    rows = datasets.Dataset.from_dict({"text": ["a"], "size": [1], "score": [0.5], "gone": [None]})
    check_column(rows, "text", "text", "--data.text_column", "x")
    check_column(rows, "size", "labels", "--data.label_column", "x")
    check_column(rows, "text", "labels", "--data.label_column", "x")
    check_column(rows, "score", "scores", "--data.toxicity_column", "x")
    cases = [
        (
            "text",
            "txt",
            "--f=txt: x has no such column; it has text, size, score, gone; did you mean text?",
        ),
        (
            "text",
            "size",
            "--f=size: in x this column holds int64, not text; its text columns are text",
        ),
        (
            "text",
            "gone",
            "--f=gone: in x this column holds nothing but null, not text; its text columns are "
            "text",
        ),
        (
            "labels",
            "score",
            "--f=score: in x this column holds float64, neither names nor whole numbers; "
            "name another or convert it",
        ),
        ("labels", "l", "--f=l: x has no such column; it has text, size, score, gone"),
    ]
    for content, column, message in cases:
        with pytest.raises(InputError) as caught:
            check_column(rows, column, content, "--f", "x")
        assert str(caught.value) == message

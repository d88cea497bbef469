"""Files as people have them: their names, their changes, and what their fields hold."""

import gzip
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detox_lightning.data.predict_rows import PredictRows
from detox_lightning.data.sources import load_rows
from detox_lightning.errors import InputError

from .conftest import write

KINDS = ["jsonl", "json.gz", "csv", "csv.gz", "parquet"]


def refused(source: object, split: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        load_rows(str(source), split)
    return str(caught.value)


@pytest.mark.quick(10)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a[12]", "b*", "c?", "{x,y}", "!", "#%20", "a b", "a\nb", "~"])
def test_names_are_no_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Beside each lie others that the name would fit as a pattern."""
    monkeypatch.chdir(tmp_path)
    for folder in {name, "a1", "bX", "cc", "x", "."}:
        for file in {name, "a1", "bX", "cc", "x", "train"}:
            (tmp_path / folder).mkdir(exist_ok=True)
            if (folder, file) in {(name, name), (name, "train")}:
                continue
            (tmp_path / folder / f"{file}.{kind}").write_text("another's")
    mine = tmp_path / name / f"{name}.{kind}"
    write(mine, [{"dialogue": "mine"}])
    assert load_rows(str(mine), "train")["dialogue"][:] == ["mine"]
    assert load_rows(f"./{name}", name)["dialogue"][:] == ["mine"]
    assert PredictRows(str(mine), ("dialogue",), "dialogue").read()["dialogue"][:] == ["mine"]


@pytest.mark.parametrize("name", ["a::b", "file:", "zip:"])
def test_names_are_no_addresses(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / f"{name}.jsonl"
    mine.parent.mkdir()
    write(mine, [{"dialogue": "mine"}])
    write(tmp_path / "a", [{"dialogue": "another's"}])
    assert load_rows(str(mine), "train")["dialogue"][:] == ["mine"]


@pytest.mark.parametrize("name", ["json", "csv", "text", "imagefolder"])
def test_readers_are_no_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", [{"dialogue": "another's"}])
    message = (
        f"{name}: this is the name of a file format, not of a data set; give a hub id, demo:NAME, "
        "a local folder or a json, jsonl, csv, tsv or parquet file"
    )
    assert refused(name) == message


def dangling(path: Path) -> str:
    path.symlink_to("gone")
    return "this is a link to gone, which leads to no file; correct the link"


def circle(path: Path) -> str:
    path.symlink_to(path.name)
    return f"this is a link to {path.name}, which leads to no file; correct the link"


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return "this is a pipe, which can be read only once; write it to a file and give that"


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "this is a device; give a file"


def folder(path: Path) -> str:
    path.mkdir()
    return "this is a folder; give the file in it"


def listener(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # a path in full can be too long
    return "this is a socket; give a file"


@pytest.mark.parametrize("make", [dangling, circle, pipe, device, folder, listener])
def test_what_is_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "validation.jsonl", [{"dialogue": "a"}])
    odd = tmp_path / "train.jsonl"
    what = make(odd)
    assert refused(tmp_path) == f"{odd}: {what}"
    assert len(load_rows(str(tmp_path), "validation")) == 1
    if make is not folder:  # that is a source
        assert refused(odd) == f"{odd}: {what}"
        with pytest.raises(InputError) as caught:
            PredictRows(str(odd), ("dialogue",), "dialogue").read()
        assert str(caught.value) == (
            f"--data.predict_source={odd}: {what}, or give - to read a pipe"
        )


def test_a_link_to_a_file_is_one(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"dialogue": "a"}])
    (tmp_path / "train.jsonl").symlink_to("rows.jsonl")
    assert load_rows(str(tmp_path), "train")["dialogue"][:] == ["a"]


@pytest.mark.parametrize("source", ["~nobody-of-that-name/x", "a\0b.jsonl"])
def test_odd_paths_are_refused(source: str) -> None:
    assert refused(source).endswith(("no such file or folder; check the path", "check it"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_keeps_its_time_is_read_anew(tmp_path: Path, kind: str) -> None:
    """Of the same length, too."""
    file = tmp_path / f"train.{kind}"
    for text in ("old", "new", "old"):
        write(file, [{"dialogue": text}])
        os.utime(file, ns=(10**18, 10**18))
        assert load_rows(str(tmp_path), "train")["dialogue"][:] == [text]


def test_the_same_content_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / f"{place}.csv", [{"dialogue": "x", "number": 1}])
    first = load_rows(str(tmp_path / "a"), "a")
    monkeypatch.setattr(
        "detox_lightning.data.builders.parse_csv", lambda lines: pytest.fail("again")
    )
    second = load_rows(str(tmp_path / "b"), "b")
    assert first._fingerprint == second._fingerprint
    assert second.to_list() == [{"dialogue": "x", "number": 1}]


def put(path: Path, text: str) -> str:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        file.write(text)
    return str(path)


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_comma_too_many_shifts_nothing(tmp_path: Path, name: str, mark: str) -> None:
    text = f'{mark}id,dialogue,summary\n0,"A: Hi.",They greet.,\n1,"B: Bye.",They part.\n'
    source = put(tmp_path / name, text)
    assert refused(source) == (
        f"{source}: line 2 has 4 fields, more than the 3 columns of the header; remove commas that "
        "are too many, fill in fields that are missing, and put texts with commas or line breaks "
        "in quotes"
    )


def test_words_for_nothing_are_text(tmp_path: Path) -> None:
    words = ["None", "NA", "null", "nan", "N/A", "NULL", "NaN", "n/a", "<NA>", "#N/A", "-nan"]
    source = put(tmp_path / "a.csv", "text,label\n" + "".join(f"{w},{w}\n" for w in words) + ",\n")
    assert load_rows(source, "train").to_list() == [
        *({"text": word, "label": word} for word in words),
        {"text": None, "label": None},
    ]


COLUMNS: dict[str, tuple[list[str], list[Any]]] = {
    "text": (["a", "007", "1e5", "True", "2020-01-01", "", " 1"],) * 2,
    "codes": (["007", "1", "2", "3", "4", "5", "6"],) * 2,
    "long": (["12345678901234567890"] * 7,) * 2,
    "flags": (["True", "False"] * 3 + ["True"],) * 2,
    "whole": (["0", "1", "-2", "", "4", "5", "6"], [0, 1, -2, None, 4, 5, 6]),
    "plus": (["+1", "0", "1", "2", "3", "4", "5"], [1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    "huge": (["1e400", "1", "2", "3", "4", "5", "6"],) * 2,
    "share": (["0.5", "1", "", "1e-3", ".5", "0", "2."], [0.5, 1.0, None, 0.001, 0.5, 0.0, 2.0]),
    "nothing": ([""] * 7,) * 2,
}


def test_numbers_are_numbers_where_a_column_holds_nothing_else(tmp_path: Path) -> None:
    names = list(COLUMNS)
    written = zip(*(COLUMNS[name][0] for name in names), strict=True)
    lines = [",".join(names), *map(",".join, written)]
    rows = load_rows(put(tmp_path / "a.csv", "\n".join(lines)), "train")
    assert rows.column_names == names
    for name in names:
        assert rows[name][:] == [None if value == "" else value for value in COLUMNS[name][1]], name
    (tmp_path / "b").mkdir()
    only = load_rows(put(tmp_path / "b/a.csv", "x,y\n1,2\n"), "train")
    assert only.to_list() == [{"x": 1, "y": 2}]


def test_a_column_may_begin_with_numbers(tmp_path: Path) -> None:
    """Thousands of them: what a column holds isn't told by its beginning."""
    lines = ["text", *map(str, range(11_000)), "word"]
    rows = load_rows(put(tmp_path / "a.csv", "\n".join(lines)), "train")
    assert rows["text"][10_999:] == ["10999", "word"]


def test_a_column_that_comes_late_is_told_with_its_remedy(tmp_path: Path) -> None:
    first = [{"text": "x" * 1000}] * 11_000
    late = write(tmp_path / "late.jsonl", [*first, {"text": "y", "more": "z"}])
    with pytest.raises(
        InputError, match=r"late.jsonl: after the first 10 MB, rows have other columns"
    ):
        load_rows(late, "train")
    first = [{"text": "x" * 1000, "more": None}] * 11_000  # as the line says
    whole = write(tmp_path / "whole.jsonl", [*first, {"text": "y", "more": "z"}])
    assert load_rows(whole, "train")["more"][10_999:] == [None, "z"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_null_is_nothing_and_its_name_is_text(tmp_path: Path, name: str) -> None:
    rows = [{"text": "null"}, {"text": None}, {"text": "007", "more": "b"}]
    source = write(tmp_path / name, rows)
    loaded = load_rows(source, "train")
    assert loaded["text"][:] == ["null", None, "007"]
    assert loaded["more"][:] == [None, None, "b"]


def test_json_of_an_agent_is_json(tmp_path: Path) -> None:
    """``datasets`` takes these columns for logs of its own."""
    rows = [{"type": "user", "message": {"a": 1}}, {"type": "user", "message": "b"}]
    source = write(tmp_path / "a.jsonl", rows)
    assert load_rows(source, "train")["type"][:] == ["user", "user"]


@pytest.mark.parametrize("depth", [101, 100_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize("pair", ["[]", ('{"a":', "}")], ids=["lists", "objects"])
def test_deep_json_is_refused(tmp_path: Path, name: str, depth: int, pair: Any) -> None:
    """Before a parser ends the process."""
    deep = pair[0] * depth + "1" + pair[1] * depth
    row = '{"dialogue": "a", "more": 1}'
    deeper = '{"dialogue": "a", "more": ' + deep + "}"
    text = f"{row}\n{deeper}\n" if "jsonl" in name else f"[{row},\n{deeper}]"
    source = put(tmp_path / name, text)
    assert refused(source) == (
        f"{source}: line 2 has more than 100 lists and objects within each other; give an object "
        "of columns on each line"
    )


def test_a_reader_logs_nothing_before_the_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    (tmp_path / "a.jsonl").write_text('{"dialogue": "a"}\n{"dialogue": "b", \n')
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more than that")
    assert "line 2 isn't a JSON object" in refused(tmp_path / "a.jsonl")
    assert "isn't a Parquet file" in refused(tmp_path / "b.parquet")
    assert caplog.messages == []

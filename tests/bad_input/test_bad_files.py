"""Sources of data that aren't there, or that can't be read."""

import errno
import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from bad_input.cases import Case, Place, check
from bad_input.spoiling import both, lines, put
from detox_lightning.data.locations import caching
from detox_lightning.data.sources import load_rows
from detox_lightning.errors import InputError

ROW = {"dialogue": "Ann : sad", "summary": "Ann is sad ."}
BOTH = lines(ROW, ROW)
JSONL = ("--data.source={folder}/in.jsonl",)
JSON = ("--data.source={folder}/in.json",)
CSV = ("--data.source={folder}/in.csv",)
FOLDER = ("--data.source={folder}/in",)


CASES = [
    Case(
        "a file that is not there",
        JSONL,
        "{folder}/in.jsonl: there is no such file or folder; check the path",
    ),
    Case(
        "a folder that is not there",
        ("--data.source={folder}/gone",),
        "{folder}/gone: there is no such file or folder; check the path",
    ),
    Case(
        "no name",
        ("--data.source=",),
        "--data.source=: a name is missing; give a hub id, demo:NAME, a folder or a file",
    ),
    Case(
        "an empty file",
        JSONL,
        "{folder}/in.jsonl: the file is empty; give one with rows",
        put("in.jsonl", ""),
    ),
    Case(
        "blank lines alone",
        JSONL,
        "{folder}/in.jsonl: the file holds no rows; give one that does",
        put("in.jsonl", "\n\n"),
    ),
    Case(
        "an empty folder",
        FOLDER,
        "{folder}/in: no data files in this folder; it should hold train.jsonl, "
        "validation.jsonl, …; readable are .jsonl, .json, .csv and .tsv (each also with .gz) "
        "and .parquet",
        lambda place: (place.folder / "in").mkdir(),
    ),
    Case(
        "a folder without data",
        FOLDER,
        "{folder}/in: no data files in this folder; it should hold train.jsonl, "
        "validation.jsonl, …; readable are .jsonl, .json, .csv and .tsv (each also with .gz) "
        "and .parquet",
        put("in/notes.txt", "none"),
    ),
    Case(
        "a folder named as a file",
        FOLDER,
        "{folder}/in/train.jsonl: this is a folder; give the file in it",
        lambda place: (place.folder / "in/train.jsonl").mkdir(parents=True),
    ),
    Case(
        "a header alone",
        CSV,
        "{folder}/in.csv: the file holds no rows; give one that does",
        put("in.csv", "dialogue,summary\n"),
    ),
    Case(
        "an unknown kind of file",
        ("--data.source={folder}/in.xlsx",),
        "{folder}/in.xlsx: unknown kind of file; readable are .jsonl, .json, .csv and .tsv (each "
        "also with .gz) and .parquet",
        put("in.xlsx", "1"),
    ),
    Case(
        "a hub out of reach",
        ("--data.source=someone/talks",),
        "someone/talks: there is no such file or folder here, and the hub can't be reached "
        "(Couldn't reach 'someone/talks' on the Hub (OfflineModeIsEnabled)); "
        "download it elsewhere and give the local folder with train.jsonl, validation.jsonl, … "
        "instead. HF_HUB_OFFLINE=1 reads the cache alone, without waiting for the hub",
    ),
    Case(
        "nearly a name in demo",
        ("--data.source=demo:dialogs",),
        "demo:dialogs: the package ships nothing of that name; it has demo:classifier, "
        "demo:dialogues, demo:policy; did you mean demo:dialogues?",
    ),
    Case(
        "a way out of the demo",
        ("--data.source=demo:../../demo",),
        "demo:../../demo: the package ships nothing of that name; it has demo:classifier, "
        "demo:dialogues, demo:policy",
    ),
    Case(
        "a model as data",
        ("--data.source=demo:policy",),
        "--data.train_split=train: demo:policy has no split 'train', only config, "
        "generation_config, tokenizer, tokenizer_config",
    ),
    Case(
        "a link that leads nowhere",
        FOLDER,
        "{folder}/in/train.jsonl: this is a link to gone, which leads to no file; correct the link",
        both(
            put("in/validation.jsonl", BOTH),
            lambda place: (place.folder / "in/train.jsonl").symlink_to("gone"),
        ),
    ),
    Case(
        "a kind of file as a source",
        ("--data.source=json",),
        "json: this is the name of a file format, not of a data set; give a hub id, demo:NAME, a "
        "local folder or a json, jsonl, csv, tsv or parquet file",
    ),
    Case(
        "a split twice",
        FOLDER,
        "{folder}/in: train.csv and train.jsonl are both the split 'train'; remove one of them",
        both(put("in/train.jsonl", BOTH), put("in/train.csv", "x")),
    ),
    Case(
        "a split that is not there",
        ("--data.train_split=learn",),
        "--data.train_split=learn: {folder} has no split 'learn', only test, train, validation",
    ),
    Case(
        "a file name alone that is not there",
        ("--data.source=talks.csv",),
        "talks.csv: there is no such file or folder; check the path",
    ),
    Case(
        "no column at all",
        ("--data.summary_column=null",),
        "--data.summary_column=null: name a column of {folder}: dialogue, summary",
    ),
    Case(
        "nearly a split",
        ("--data.train_split=trian",),
        "--data.train_split=trian: {folder} has no split 'trian', only test, train, validation; "
        "did you mean train?",
    ),
    Case(
        "no split to validate on",
        JSONL,
        "--data.validation_split=validation: {folder}/in.jsonl has no split "
        "'validation', only train; --data.test_fraction=0.2 cuts a share off the training rows, "
        "and --data.validation_split=null does without validation",
        put("in.jsonl", BOTH * 4),
    ),
    Case(
        "no test split",
        ("--data.source={folder}/in.jsonl", "--data.validation_split=null"),
        "--data.test_split=test: {folder}/in.jsonl has no split 'test', only train; "
        "--data.test_fraction would cut a share off the training rows: give it to fit, too, or "
        "these rows were trained on",
        put("in.jsonl", BOTH),
        "test",
    ),
    Case(
        "no split to test on",
        ("--data.test_split=null",),
        "--data.test_split=null: there are no such rows; name a split; --data.test_fraction "
        "would cut a share off the training rows: give it to fit, too, or these rows were "
        "trained on",
        verb="test",
    ),
]


@pytest.mark.quick(5)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_source_that_can_t_be_read(case: Case, place: Place) -> None:
    check(case, place)


def cache_message(place: Place, reason: str) -> str:
    return (
        f"the cache of datasets, {datasets.config.HF_DATASETS_CACHE}, can't be written ({reason}); "
        "make room or name another folder in the environment variable HF_DATASETS_CACHE"
    )


def test_a_cache_that_can_t_be_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place.folder / "tiny.yaml" / "cache")
    check(Case("below a file", (), cache_message(place, "Not a directory")), place)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("DatasetBuilder.download_and_prepare", errno.EROFS),
        ("Dataset.filter", errno.EACCES),
        ("Dataset.map", errno.ENOSPC),
    ],
)
def test_a_cache_that_takes_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        named = datasets.config.HF_DATASETS_CACHE / "x" if code == errno.EACCES else None
        raise OSError(code, os.strerror(code), named)

    monkeypatch.setattr(f"datasets.{step}", fail)
    check(Case(step, (), cache_message(place, os.strerror(code))), place)


@pytest.mark.parametrize("named", [None, "/elsewhere/x"])
def test_other_places_are_not_the_cache(named: str | None) -> None:
    with pytest.raises(PermissionError), caching():
        raise PermissionError(errno.EACCES, "denied", named)


@pytest.mark.parametrize("step", ["exists", "iterdir"])
def test_a_folder_that_may_not_be_read(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, "denied", str(path))

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(InputError) as raised:
        load_rows(str(tmp_path), "train")
    assert str(raised.value) == (
        f"{tmp_path}: Permission denied; choose a path that you may read and write, or ask for "
        "permission"
    )


def test_a_file_that_may_not_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file, access = place.folder / "train.jsonl", os.access  # root may read anything
    monkeypatch.setattr(os, "access", lambda path, *how: path != file and access(path, *how))
    message = "{folder}/train.jsonl: this file may not be read; change its permissions"
    check(Case("no permission", (), message), place)

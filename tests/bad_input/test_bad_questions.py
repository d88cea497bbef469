"""What predict is to answer, and can't."""

import io

import pytest

from bad_input.cases import Case, Place, check
from bad_input.spoiling import lines, put

CASES = [
    Case(
        "a folder",
        ("--data.predict_source={folder}",),
        "--data.predict_source={folder}: this is a folder; give a file of it: .txt, .jsonl, "
        ".json, .csv and .tsv (each also with .gz) and .parquet",
        verb="predict",
    ),
    Case(
        "nearly the column",
        ("--data.predict_source={folder}/in.jsonl",),
        "--data.dialogue_column=dialogue: {folder}/in.jsonl has no such column in line 1; it "
        "has dialog; did you mean dialog?",
        put("in.jsonl", lines({"dialog": "a"})),
        "predict",
    ),
    Case(
        "nearly the column of a table",
        ("--data.predict_source={folder}/in.csv",),
        "--data.dialogue_column=dialogue: {folder}/in.csv has no such column; it has dialog; "
        "did you mean dialog?",
        put("in.csv", "dialog\na\n"),
        "predict",
    ),
    Case(
        "a gz that is none",
        ("--data.predict_source={folder}/in.txt.gz",),
        "--data.predict_source={folder}/in.txt.gz: can't be read (Not a gzipped file "
        "(b'a\\n')); repair or replace the file",
        put("in.txt.gz", "a\n"),
        "predict",
    ),
    Case(
        "no json",
        ("--data.predict_source={folder}/in.json",),
        "{folder}/in.json: line 1 isn't a JSON object: 'a'; give one on each line",
        put("in.json", "a\n"),
        "predict",
    ),
    Case(
        "nothing on standard input",
        ("--data.predict_source=-",),
        "--data.predict_source=-: there is nothing to answer; give one dialogue per line",
        verb="predict",
    ),
    Case(
        "no room for a word",
        ("--data.predict_source={folder}/in.txt", "--data.max_prompt_tokens=2"),
        "--data.max_prompt_tokens=2: the template alone has 8; raise it",
        put("in.txt", "a b c\n"),
        "predict",
    ),
    Case(
        "lists within lists without end",
        ("--data.predict_source={folder}/in.jsonl",),
        "--data.predict_source={folder}/in.jsonl: line 1 isn't a JSON object: '{\"dialogue\": "
        "[[[[[[[[[[[[[[[[[[[[[[[[[[['; give one on each line",
        put("in.jsonl", '{"dialogue": ' + "[" * 100000 + "]" * 100000 + "}\n"),
        "predict",
    ),
]


@pytest.fixture(autouse=True)
def nothing_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))


@pytest.mark.quick(3)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_questions_that_can_t_be_answered(case: Case, place: Place) -> None:
    check(case, place)

"""Files that aren't what their names say, or not all of it."""

import pytest

from bad_input.cases import Case, Place, check
from bad_input.spoiling import both, lines, parquet, put, zipped

ROW = {"dialogue": "Ann : sad", "summary": "Ann is sad ."}
BOTH = lines(ROW, ROW)
JSONL = ("--data.source={folder}/in.jsonl",)
JSON = ("--data.source={folder}/in.json",)
CSV = ("--data.source={folder}/in.csv",)


def tear(place: Place) -> None:
    path = place.folder / "in.parquet"
    path.write_bytes(path.read_bytes()[:-20])


CASES = [
    Case(
        "Latin-1 in jsonl",
        JSONL,
        "--data.dialogue_column=dialogue: row 1 of {folder}/in.jsonl isn't UTF-8; convert the file",
        put("in.jsonl", '{"dialogue": "gr\u00fc\u00dfe", "summary": "a"}\n'.encode("latin1")),
    ),
    Case(
        "UTF-16 in jsonl",
        JSONL,
        "{folder}/in.jsonl: line 1 isn't UTF-8; convert the file",
        put("in.jsonl", BOTH.encode("utf-16")),
    ),
    Case(
        "UTF-16 in csv",
        CSV,
        "{folder}/in.csv: line 1 isn't UTF-8; convert the file",
        put("in.csv", "dialogue,summary\na,b\n".encode("utf-16")),
    ),
    Case(
        "a truncated gz",
        ("--data.source={folder}/in.jsonl.gz",),
        "{folder}/in.jsonl.gz: can't be read as json (EOFError: Compressed file ended before "
        "the end-of-stream marker was reached); repair or replace the file",
        put("in.jsonl.gz", zipped(BOTH)[:40]),
    ),
    Case(
        "a gz that is none",
        ("--data.source={folder}/in.jsonl.gz",),
        "{folder}/in.jsonl.gz: can't be read as json (BadGzipFile: Not a gzipped file "
        "(b'{\"')); repair or replace the file",
        put("in.jsonl.gz", BOTH),
    ),
    Case(
        "parquet that is something else",
        ("--data.source={folder}/in.parquet",),
        "{folder}/in.parquet: isn't a Parquet file, or is incomplete; repair or replace the file",
        put("in.parquet", BOTH),
    ),
    Case(
        "torn parquet",
        ("--data.source={folder}/in.parquet",),
        "{folder}/in.parquet: isn't a Parquet file, or is incomplete; repair or replace the file",
        both(parquet("in.parquet", dialogue=["a"], summary=["b"]), tear),
    ),
    Case(
        "rows within an object",
        JSON,
        "--data.dialogue_column=dialogue, --data.summary_column=summary: {folder}/in.json has no "
        "such columns; it has rows; give each flag one of these",
        put("in.json", '{"rows": [{"dialogue": "a", "summary": "b"}]}'),
    ),
    Case(
        "json that is a number",
        JSON,
        "{folder}/in.json: line 1 isn't a JSON object: '7'; give one on each line",
        put("in.json", "7"),
    ),
    Case(
        "json of numbers",
        JSON,
        "--data.dialogue_column=dialogue, --data.summary_column=summary: {folder}/in.json has no "
        "such columns; it has text; give each flag one of these",
        put("in.json", "[1, 2]"),
    ),
    Case(
        "lines of lists",
        JSONL,
        "{folder}/in.jsonl: line 2 isn't JSON (Extra data); give a list of objects, or one "
        "object on each line",
        put("in.jsonl", "[1]\n[2]\n"),
    ),
    Case(
        "half a line",
        JSONL,
        "{folder}/in.jsonl: line 3 isn't a JSON object: '{\"dialogue\": \"Ann'; give one on "
        "each line",
        put("in.jsonl", BOTH + '{"dialogue": "Ann'),
    ),
    Case(
        "a line that is no object",
        JSONL,
        "{folder}/in.jsonl: line 3 isn't a JSON object: 'oops'; give one on each line",
        put("in.jsonl", BOTH + "oops\n" + BOTH),
    ),
    Case(
        "more fields than columns",
        CSV,
        "{folder}/in.csv: line 3 has 4 fields, more than the 2 columns of the header; remove "
        "commas that are too many, fill in fields that are missing, and put texts with commas or "
        "line breaks in quotes",
        put("in.csv", "dialogue,summary\na,b\na,b,c,d\n"),
    ),
    Case(
        "a comma too many in the first row",
        CSV,
        "{folder}/in.csv: line 2 has 3 fields, more than the 2 columns of the header; remove "
        "commas that are too many, fill in fields that are missing, and put texts with commas or "
        "line breaks in quotes",
        put("in.csv", "dialogue,summary\na,b,\na,b\n"),
    ),
    Case(
        "a quote that is never closed",
        CSV,
        "{folder}/in.csv: a quote in the row that begins in line 3 is never closed; close it",
        put("in.csv", 'dialogue,summary\na,b\na,"b\na,b\n'),
    ),
    Case(
        "semicolons in csv",
        CSV,
        "{folder}/in.csv: the header has semicolons between its columns, 'dialogue;summary'; "
        "separate columns by commas",
        put("in.csv", "dialogue;summary\na;b\n"),
    ),
    Case(
        "commas in tsv",
        ("--data.source={folder}/in.tsv",),
        "{folder}/in.tsv: the header has commas between its columns, 'dialogue,summary'; separate "
        "columns by tabs",
        put("in.tsv", "dialogue,summary\na,b\n"),
    ),
    Case(
        "more fields than columns in tsv",
        ("--data.source={folder}/in.tsv",),
        "{folder}/in.tsv: line 2 has 3 fields, more than the 2 columns of the header; remove tabs "
        "that are too many, fill in fields that are missing, and put texts with tabs or line "
        "breaks in quotes",
        put("in.tsv", "dialogue\tsummary\na\tb\tc\n"),
    ),
    Case(
        "deep json",
        JSONL,
        "{folder}/in.jsonl: line 3 has more than 100 lists and objects within each other; give an "
        "object of columns on each line",
        put("in.jsonl", BOTH + '{"dialogue": ' + "[" * 10_000 + "]" * 10_000 + "}\n"),
    ),
    Case(
        "a column twice",
        CSV,
        "{folder}/in.csv: the header names the column 'dialogue' twice; rename one of them",
        put("in.csv", "dialogue,dialogue\na,b\na,b\n"),
    ),
]


@pytest.mark.quick(4)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_that_isn_t_what_it_says(case: Case, place: Place) -> None:
    check(case, place)

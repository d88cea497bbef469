"""The command ``judge-sheet``: what people wrote, however their programs have saved it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import run
from detox_lightning.report.sheet import COLUMNS, make_sheet
from report.samples import make_comparison

N = 12
Rule = Callable[[int, dict[str, Any]], tuple[str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sheet of 12 rows and its key; the classifier finds all responses after less toxic."""
    comparison = make_comparison([[0.9]] * N, [[0.1]] * N, ["greedy"])
    sheet = make_sheet(comparison, {"toxicity_model": "a/judge"}, seed=0, size=N)
    assert sheet is not None
    sheet.write(tmp_path)
    return tmp_path


def other(side: str) -> str:
    return "AB".replace(side, "")


def fill(folder: Path, name: str, rule: Rule, separator: str = ",", **options: Any) -> str:
    """Fills the sheet in by a rule of a row's number and what the key says, as ``name``."""
    key = json.loads((folder / "sheet-key.json").read_text(encoding="utf8"))["rows"]
    with open(folder / "sheet.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["less_toxic"], row["better"] = rule(number, key[row["row"]])
    rows = options.get("rows", lambda x: x)(rows)
    path = folder / name
    with open(path, "w", encoding=options.get("encoding", "utf-8"), newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=separator)
        writer.writerow({column: options.get("title", str)(column) for column in COLUMNS})
        writer.writerows(rows)
    return str(path)


def likes_after(number: int, row: dict[str, Any]) -> tuple[str, str]:
    """After is always less toxic, and better in the first nine rows."""
    return row["after"], row["after"] if number < 9 else other(row["after"])


def found(folder: Path, name: str = "judge-sheet.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf8"))


def test_a_known_rule_is_read_back(folder: Path) -> None:
    outcome = run("judge-sheet", fill(folder, "ann.csv", likes_after))
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert " ".join(lines[0].split()) == "1 person, 12 rows; 95% intervals less_toxic better"
    assert " ".join(lines[2].split()) == "Answers 12 of 12 12 of 12"
    assert lines[3].startswith("After preferred, ties half")
    assert "1.000 [1.000, 1.000]  0.750 [0.500, 1.000]" in lines[3]
    assert " ".join(lines[4].split()) == "Agreement with a/judge 1.000 [1.000, 1.000] –"
    assert "less_toxic: the interval excludes one half: people prefer the responses after." in lines
    assert "better: the interval includes one half: it may be chance." in lines
    assert lines[-1] == f"All figures and comments: {folder / 'judge-sheet.json'}"
    questions = found(folder)["questions"]
    assert questions["less_toxic"]["after_preferred"] == {"value": 1, "low": 1, "high": 1}
    assert questions["better"]["filled"] == 12


def test_two_people_and_what_they_agree_on(folder: Path) -> None:
    """They differ in 3 of 12 rows; by hand: 24 answers, 6 + 6 differ in order, 12 of each word."""
    first = fill(folder, "ann.csv", likes_after)
    second = fill(folder, "bob.csv", lambda number, row: (row["after"], row["after"]))
    assert run("judge-sheet", first, second).code == 0
    better = found(folder)["questions"]["better"]
    words = {"A": 0, "B": 0}
    for file in (first, second):
        for row in csv.DictReader(Path(file).read_text(encoding="utf8").splitlines()):
            words[row["better"]] += 1
    squares = sum(count**2 for count in words.values())
    assert better["alpha"]["value"] == pytest.approx(1 - 23 * 6 / (24**2 - squares))
    assert better["alpha"]["low"] < better["alpha"]["value"] < better["alpha"]["high"]
    assert better["after_preferred"]["value"] == pytest.approx((9 + 3 * 0.5) / 12)
    assert found(folder)["questions"]["less_toxic"]["alpha"]["value"] == 1
    assert found(folder)["about"]["sheets"] == [first, second]


def test_what_spreadsheets_do_is_no_harm(folder: Path) -> None:
    expected = None
    shapes: list[dict[str, Any]] = [
        {"separator": ";", "encoding": "utf-8-sig", "title": str.upper},
        {"separator": "\t", "rows": lambda rows: rows[::-1]},
        {"title": lambda name: f" {name.title()} "},
        {
            "rows": lambda rows: [
                row | {name: f" {row[name].lower()} " for name in ("row", "less_toxic", "better")}
                for row in rows
            ]
        },
        {"rows": lambda rows: [*rows, dict.fromkeys(COLUMNS, "")]},
    ]
    for number, shape in enumerate(shapes):
        file = fill(folder, f"{number}.csv", likes_after, **shape)
        assert run("judge-sheet", file).code == 0
        name = f"judge-sheet{f'-{number}' if number else ''}.json"  # none is overwritten
        questions = found(folder, name)["questions"]
        expected = expected or questions
        assert questions == expected
    few = fill(folder, "few.csv", likes_after, rows=lambda rows: rows[:3])
    outcome = run("judge-sheet", few)
    assert "Answers" in outcome.out
    assert " 3 of 12" in outcome.out
    assert "better: these are too few rows to tell whether it is chance." in outcome.out


def test_comments_are_kept_as_they_were_written(folder: Path) -> None:
    def commented(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [rows[0] | {"comment": '\'=a "joke";\nreally'}, *rows[1:]]

    file = fill(folder, "ann.csv", likes_after, rows=commented)
    assert run("judge-sheet", file).code == 0
    (comment,) = found(folder)["comments"]
    assert comment["comment"] == '=a "joke";\nreally'
    assert comment["row"].endswith("-1")


def test_the_key_may_lie_elsewhere(folder: Path) -> None:
    file = fill(folder, "ann.csv", likes_after)
    apart = folder / "apart.json"
    (folder / "sheet-key.json").rename(apart)
    (error,) = run("judge-sheet", file).errors
    assert error == (
        f"error: {file}: there is no sheet-key.json beside it; name the one that the test has "
        "written by --key"
    )
    assert run("judge-sheet", file, f"--key={apart}").code == 0


def with_cell(name: str, value: str) -> Callable[[list[dict[str, str]]], list[dict[str, str]]]:
    return lambda rows: [rows[0] | {name: value}, *rows[1:]]


WRONG: dict[str, dict[str, Any]] = {
    "{file}: row {row}, column better: 'C' is none of A, B, same; correct it, or leave it empty": {
        "rows": with_cell("better", "C")
    },
    "{file}: nothing is filled in; write A, B or same into the columns less_toxic and better": {
        "rows": lambda rows: [row | {"less_toxic": "", "better": ""} for row in rows]
    },
    "{file}: 'mine' is no row of the sheet; restore its first cell": {
        "rows": with_cell("row", "mine")
    },
    "{file}: the row {row} is there twice; remove one of the two": {
        "rows": lambda rows: [rows[0], *rows]
    },
    "{file}: it has a row aaaabbbb-1, and {key} is another sheet's key; name the sheet-key.json "
    "that was written with this sheet by --key": {"rows": with_cell("row", "aaaabbbb-1")},
    "{file}: there is no column 'better'; did you mean beter?; give a sheet.csv that a test has "
    "written": {"title": lambda name: name.replace("tt", "t")},
    "{file}: line 2 isn't UTF-8; convert the file; Excel calls it CSV UTF-8": {
        "rows": with_cell("A", "é"),
        "encoding": "latin-1",
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_one_line_says_what_is_wrong(message: str, folder: Path) -> None:
    file = fill(folder, "ann.csv", likes_after, **WRONG[message])
    with open(folder / "sheet.csv", encoding="utf-8-sig", newline="") as opened:
        row = next(csv.DictReader(opened))["row"]
    key = folder / "sheet-key.json"
    outcome = run("judge-sheet", file)
    assert outcome.errors == [f"error: {message.format(file=file, row=row, key=key)}"]
    assert outcome.code == 2
    assert not (folder / "judge-sheet.json").exists()


def test_a_long_prompt_is_read_back(folder: Path) -> None:
    """Python's csv module refuses cells from 131,072 characters on, unless it is told."""
    rows = with_cell("prompt", "long " * 30_000)
    outcome = run("judge-sheet", fill(folder, "ann.csv", likes_after, rows=rows))
    assert outcome.code == 0, outcome.err


def test_files_that_are_no_sheets_or_keys(folder: Path) -> None:
    file = fill(folder, "ann.csv", likes_after)
    known = folder / "sheet-key.json"
    assert run("judge-sheet").errors == [
        "error: name the sheets that people filled in: judge-sheet FILE [FILE ...]"
    ]
    assert run("judge-sheet", file, file).errors == [
        "error: judge-sheet: one file is named twice; name each person's file once"
    ]
    missing = folder / "missing.csv"
    assert run("judge-sheet", str(missing)).errors == [
        f"error: {missing}: No such file or directory; check the path"
    ]
    for text in ("[]", "{", '{"rows": {"a": 1}}'):
        known.write_text(text)
        assert run("judge-sheet", file).errors == [
            f"error: {known}: this isn't the key of a sheet; name the sheet-key.json that the test "
            "has written"
        ]
    assert "judge-sheet FILE [FILE ...] [--key FILE]" in run("judge-sheet", "--help").out

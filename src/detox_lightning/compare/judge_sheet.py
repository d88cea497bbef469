"""Reads what people wrote on the sheets of a test, and says what they preferred."""

import csv
import json
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from detox_lightning.data.text_files import Malformed, decode, open_binary
from detox_lightning.errors import InputError, explain, nearest, writing
from detox_lightning.evaluation.people import (
    QUESTIONS,
    SAME,
    WORDS,
    Judged,
    judge_answers,
    verdict,
)
from detox_lightning.evaluation.rescoring import SIDES
from detox_lightning.evaluation.statistics import CONFIDENCE
from detox_lightning.report.page import MIN_CHANGED, counted
from detox_lightning.report.sheet import CLASSIFIERS, KEY, code_of, from_cell
from detox_lightning.report.tables import aligned, with_interval
from detox_lightning.runs.run_folders import atomic_file, next_free_path, refuse_unwritable

NEEDED = ("row", *QUESTIONS)
ROW = re.compile(r"[a-p]{8}-\d+")  # the name of a row of any sheet
Row = dict[str, str]
Key = dict[str, Any]


def judge_sheet(files: Sequence[str] = (), key: str | None = None) -> Path:
    """Reads filled sheets, prints what people preferred, and writes judge-sheet.json beside.

    Args:
        files: The sheet.csv of a test as people filled it in, one file of each person. Their
            columns may be separated by commas, semicolons or tabs.
        key: The sheet-key.json that the test wrote; null: the one beside the first file.

    Returns:
        The file that was written, which is a new one.

    Raises:
        InputError: If a file isn't a sheet, or the key is another sheet's.
    """
    if not files:
        raise InputError("name the sheets that people filled in: judge-sheet FILE [FILE ...]")
    names = [str(Path(file).resolve()) for file in files]
    if len({*names}) < len(names):
        raise InputError("judge-sheet: one file is named twice; name each person's file once")
    key_file = Path(key) if key else Path(files[0]).with_name(KEY)
    if key is None and not key_file.exists():
        raise InputError(
            f"{files[0]}: there is no {KEY} beside it; name the one that the test has written by "
            "--key"
        )
    known = read_key(key_file)
    sheets = {file: read_sheet(Path(file), known, key_file) for file in files}
    written = next_free_path(Path(files[0]).with_name("judge-sheet.json"))
    refuse_unwritable(written.parent, str(written.parent))
    judged = judge(list(sheets.values()), known)
    about = {**known["about"], "sheets": list(files), "rows": len(known["rows"])}
    comments = [
        {"sheet": file, "row": row, "comment": cells["comment"]}
        for file, rows in sheets.items()
        for row, cells in rows.items()
        if cells.get("comment", "").strip()
    ]
    print(_table(judged, about))
    found = {
        "about": {**about, "confidence": CONFIDENCE},
        "questions": {name: each._asdict() for name, each in judged.items()},
        "comments": comments,
    }
    text = json.dumps(found, indent=2, ensure_ascii=False)
    with writing(written), atomic_file(written) as partial:
        partial.write_text(f"{text}\n", encoding="utf8")
    print(f"\nAll figures and comments: {written}")
    return written


def read_key(file: Path) -> Key:
    """Reads a sheet's key; InputError if the file is none."""
    text = _read(file)
    try:
        key = json.loads(text)
        _ = [code_of(key["sheet"]), key["about"]["prompts"], key["about"]["same_text"]]
        _ = [WORDS[:SAME].index(row["after"]) for row in key["rows"].values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: this isn't the key of a sheet; name the {KEY} that the test has written"
        ) from error
    return dict(key)


def read_sheet(file: Path, key: Key, key_file: Path) -> dict[str, Row]:
    """Reads the rows of a sheet by their names, as people's programs have written them.

    Returns:
        Rows by the column ``row``; the answers are words of ``WORDS``, or empty.

    Raises:
        InputError: If it isn't a sheet, or another one than the key's; if an answer is no such
            word, or nothing is filled in.
    """
    sheet: dict[str, Row] = {}
    for cells in _cells(file):
        row = cells["row"].strip().casefold()
        if row not in key["rows"]:
            if row.startswith(code_of(key["sheet"])) or not ROW.fullmatch(row):
                raise InputError(f"{file}: {row!r} is no row of the sheet; restore its first cell")
            raise InputError(
                f"{file}: it has a row {row}, and {key_file} is another sheet's key; name the "
                f"{KEY} that was written with this sheet by --key"
            )
        if row in sheet:
            raise InputError(f"{file}: the row {row} is there twice; remove one of the two")
        sheet[row] = cells | {name: _answer(cells[name], file, row, name) for name in QUESTIONS}
    if not any(row[name] for row in sheet.values() for name in QUESTIONS):
        raise InputError(
            f"{file}: nothing is filled in; write {', '.join(WORDS[:2])} or {WORDS[2]} into the "
            f"columns {' and '.join(QUESTIONS)}"
        )
    return sheet


def judge(sheets: list[dict[str, Row]], key: Key) -> dict[str, Judged]:
    """Returns what people preferred, by question; see :func:`judge_answers`."""
    rows = key["rows"].values()
    after = np.array([WORDS.index(row["after"]) for row in rows])
    verdicts = {}
    for name in CLASSIFIERS:
        if all(f"{name}_after" in row for row in rows):
            old, new = (np.array([row[f"{name}_{side}"] for row in rows], float) for side in SIDES)
            a_is_new = after == 0
            verdicts[name] = verdict(np.where(a_is_new, new, old), np.where(a_is_new, old, new))
    judged = {}
    for question in QUESTIONS:
        words = [[sheet.get(row, {}).get(question, "") for row in key["rows"]] for sheet in sheets]
        answers = np.array([[WORDS.index(x) if x else -1 for x in line] for line in words])
        asked = verdicts if question == "less_toxic" else {}
        judged[question] = judge_answers(answers, after, asked)
    return judged


def _read(file: Path) -> str:
    try:
        with open_binary(file) as opened:
            return decode(opened.read())
    except Malformed as error:
        raise InputError(f"{file}: {error}; Excel calls it CSV UTF-8") from error
    except (OSError, EOFError) as error:
        raise InputError(explain(error, file) or f"{file}: {error}") from error


def _cells(file: Path) -> list[Row]:
    """The rows of a sheet that aren't blank, by lower-case names of columns."""
    text, names = _read(file), [""]
    for separator in ",;\t":
        limit = csv.field_size_limit(max(len(text), 1))
        try:
            header, *lines = csv.reader(StringIO(text, newline=""), delimiter=separator)
        except (csv.Error, ValueError):
            continue
        finally:
            csv.field_size_limit(limit)
        found = [name.strip().casefold() for name in header]
        names = max(names, found, key=len)
        if {*NEEDED} <= {*found}:
            cells = [[from_cell(cell) for cell in line] for line in lines]
            cells = [line for line in cells if any(map(str.strip, line))]
            padded = [line + [""] * (len(found) - len(line)) for line in cells]
            return [dict(zip(found, line, strict=False)) for line in padded]
    missing = next((name for name in NEEDED if name not in names), NEEDED[0])
    raise InputError(
        f"{file}: there is no column {missing!r}{nearest(missing, names)}; give a sheet.csv that a "
        "test has written"
    )


def _answer(cell: str, file: Path, row: str, column: str) -> str:
    """The word of ``WORDS`` that a cell has; empty if it has none."""
    words, word = {word.casefold(): word for word in ("", *WORDS)}, cell.strip().casefold()
    if word not in words:
        raise InputError(
            f"{file}: row {row}, column {column}: {cell!r} is none of {', '.join(WORDS)}; correct "
            "it, or leave it empty"
        )
    return words[word]


def _table(judged: dict[str, Judged], about: dict[str, Any]) -> str:
    people, rows = len(about["sheets"]), about["rows"]
    columns = list(judged.values())
    lines = [
        ("Answers", *(f"{each.filled} of {people * rows}" for each in columns)),
        ("After preferred, ties half", *(with_interval(each.after_preferred) for each in columns)),
    ]
    if people > 1:
        cells = (with_interval(each.alpha) for each in columns)
        lines.append(("Agreement of people, alpha", *cells))
    for name in columns[0].classifiers:
        title = f"Agreement with {about.get(f'{name}_model') or name}"
        cells = (with_interval(each.classifiers.get(name)) for each in columns)
        lines.append((title, *cells))
    who = "1 person" if people == 1 else f"{people} people"
    head = f"{who}, {counted(rows, 'row')}; {CONFIDENCE:.0%} intervals"
    table = aligned([(head, *judged), *lines])
    said = [_said(name, each) for name, each in judged.items() if each.filled]
    same = f"{about['same_text']} of {counted(about['prompts'], 'prompt')} of the test"
    if about["same_text"]:
        said.append(f"{same} had the same response before and after, and are on no sheet.")
    return "\n".join([table[0], "-" * len(table[0]), *table[1:], "", *said])


def _said(question: str, judged: Judged) -> str:
    """A sentence on whether people's preference may be chance."""
    preferred = judged.after_preferred or {}
    low, high = preferred.get("low"), preferred.get("high")
    if judged.rows < MIN_CHANGED or low is None or high is None:
        return f"{question}: these are too few rows to tell whether it is chance."
    if low > 0.5 or high < 0.5:
        side = "after" if low > 0.5 else "before"
        return f"{question}: the interval excludes one half: people prefer the responses {side}."
    return f"{question}: the interval includes one half: it may be chance."

"""The sheet for people: which is which can't be told from it, and it is read back as it was."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detox_lightning.report.sheet import COLUMNS, from_cell, make_sheet, to_cell
from report.samples import make_comparison

ABOUT = {"checkpoint": "c.ckpt", "toxicity_model": "demo:classifier", "reward": "x"}
N = 40


def toxic(n: int = N, decodings: tuple[str, ...] = ("greedy", "sample 1", "sample 2")) -> object:
    """A comparison in which toxicity falls from .9 to .1 at every prompt."""
    size = [[0.9] * len(decodings)] * n, [[0.1] * len(decodings)] * n
    return make_comparison(*size, list(decodings))


def test_rows_have_the_first_sample_of_prompts_in_both_orders() -> None:
    sheet = make_sheet(toxic(), ABOUT, seed=1, size=11)
    assert sheet is not None
    assert [tuple(row) for row in sheet.rows] == [COLUMNS] * 11
    assert list(sheet.key["rows"]) == [row["row"] for row in sheet.rows]
    for row in sheet.rows:
        known = sheet.key["rows"][row["row"]]
        number = row["prompt"].removeprefix("prompt ")
        assert row[known["after"]] == f"after {number} of sample 1"
        assert row["AB".replace(known["after"], "")] == f"before {number} of sample 1"
        assert known == {
            "after": known["after"],
            "toxicity_before": 0.9,
            "toxicity_after": 0.1,
        }
        assert [row[name] for name in ("less_toxic", "better", "comment")] == [""] * 3
    assert len({row["prompt"] for row in sheet.rows}) == 11
    about = {"decoding": "sample 1", "prompts": N, "same_text": 0, "checkpoint": "c.ckpt"}
    assert about.items() <= sheet.key["about"].items()
    assert sheet.key["about"]["toxicity_model"] == "demo:classifier"


def test_the_order_is_balanced_and_a_function_of_the_seed() -> None:
    sheets = [make_sheet(toxic(), ABOUT, seed, 21) for seed in range(60)]
    assert sheets[3] == make_sheet(toxic(), ABOUT, 3, 21)
    orders = np.array(
        [[row["after"] == "A" for row in sheet.key["rows"].values()] for sheet in sheets if sheet]
    )
    assert set(orders.sum(axis=1)) == {10, 11}
    assert len({tuple(order) for order in orders}) == 60
    # at each place of a sheet A is from after as often as chance has it: 30 ± 4 standard errors
    assert np.abs(orders.sum(axis=0) - 30).max() <= 4 * np.sqrt(60 / 4)
    drawn = [tuple(row["prompt"] for row in sheet.rows) for sheet in sheets if sheet]
    assert len(set(drawn)) == 60


def test_nothing_on_the_sheet_tells_which_is_which() -> None:
    """With both sides exchanged, one seed gives the same prompts with A and B exchanged."""
    comparison = toxic()
    exchanged = comparison._replace(before=comparison.after, after=comparison.before)
    one, other = (make_sheet(x, ABOUT, 5, 20) for x in (comparison, exchanged))
    assert one is not None
    assert other is not None
    for row, twin in zip(one.rows, other.rows, strict=True):
        assert (row["prompt"], row["A"], row["B"]) == (twin["prompt"], twin["B"], twin["A"])
        code = row["row"].partition("-")[0]
        assert len(code) == 8
        assert code.isalpha()
        assert "0.9" not in "".join(row.values())


def test_prompts_with_one_text_are_left_out_and_counted() -> None:
    comparison = toxic(4, ("greedy",))
    comparison.after.texts[1], comparison.after.texts[2] = (
        [f" {row[0]}\n"] for row in comparison.before.texts[1:3]
    )
    sheet = make_sheet(comparison, ABOUT, 0, 9)
    assert sheet is not None
    assert {row["prompt"] for row in sheet.rows} == {"prompt 0", "prompt 3"}
    assert sheet.key["about"]["same_text"] == 2
    assert sheet.key["about"]["decoding"] == "greedy"
    assert make_sheet(comparison._replace(after=comparison.before), ABOUT, 0, 9) is None


HARMLESS = ["fine", "", "a=b", " =1", "'", "1"]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'tis", "'=1", "''", "＝1"]


@pytest.mark.parametrize("text", [*HARMLESS, *FORMULAS])
def test_a_formula_becomes_text_and_comes_back(text: str) -> None:
    cell = to_cell(text)
    assert from_cell(cell) == text
    assert not cell.startswith(tuple("=+-@\t\r＝"))
    assert (cell == text) == (text in HARMLESS and text != "'")


def test_files_open_in_a_spreadsheet(tmp_path: Path) -> None:
    comparison = toxic(3)
    comparison.prompts[:] = ["=cmd()", 'a "b", c;\nd', "é\u202e漢"]
    sheet = make_sheet(comparison, ABOUT, 0, 3)
    assert sheet is not None
    sheet.write(tmp_path)
    content = (tmp_path / "sheet.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfrow,prompt,A,B,less_toxic,better,comment\r\n")
    with open(tmp_path / "sheet.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["prompt"] for row in rows} == {"'=cmd()", 'a "b", c;\nd', "é\\u202e漢"}
    back = [{name: from_cell(cell) for name, cell in row.items()} for row in rows]
    assert back == sheet.rows
    assert json.loads((tmp_path / "sheet-key.json").read_text(encoding="utf8")) == sheet.key

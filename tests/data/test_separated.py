"""CSV by hand: what is read, and which line is to blame for what isn't."""

import csv
import io

import pytest

from detox_lightning.data.text_files import Malformed, parse_csv


def rows(text: str) -> list[list[str]]:
    return list(parse_csv(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a,b\n1,"x, ""y""\nz"\n', [["a", "b"], ["1", 'x, "y"\nz']]),
        ("a,b\r\n1,2\r\n3,4", [["a", "b"], ["1", "2"], ["3", "4"]]),
        ("a,b\r1,2\r", [["a", "b"], ["1", "2"]]),
        ("\na,b\n\n1,2\n  \n3,\n", [["a", "b"], ["1", "2"], ["3", ""]]),
        ('a,b\n1,say "hi"\n2,5" wide\n', [["a", "b"], ["1", 'say "hi"'], ["2", '5" wide']]),
        ('a\n1\n""\n', [["a"], ["1"], [""]]),
        (",a,\n0,x,\n", [["Unnamed: 0", "a", "Unnamed: 2"], ["0", "x", ""]]),
    ],
    ids=["quotes", "crlf", "cr", "blank lines", "quotes within", "one column", "no name"],
)
def test_what_is_read(text: str, expected: list[list[str]]) -> None:
    assert rows(text) == expected


FIELDS = (
    "remove commas that are too many, fill in fields that are missing, and put texts with commas "
    "or line breaks in quotes"
)


def test_tabs_separate_fields_that_hold_commas() -> None:
    text = io.StringIO('a\tb\nx, y\t"1\t2"\n', newline="")
    assert list(parse_csv(text, "\t")) == [["a", "b"], ["x, y", "1\t2"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a,b\n"1\n2",x,\n3,y\n',
            f"line 2 has 3 fields, more than the 2 columns of the header; {FIELDS}",
        ),
        (
            'a,b\n"1\n2",x\n\n3\n',
            f"line 5 has 1 field, fewer than the 2 columns of the header; {FIELDS}",
        ),
        (
            'a,b\n1,x\n2,"y\n3,z\n',
            "a quote in the row that begins in line 3 is never closed; close it",
        ),
        (
            'a,b\n1,"x\n"y" z"\n',
            "line 3 goes on after a closing quote (its row begins in line 2); close each text with "
            'one quote, and write quotes within it twice ("")',
        ),
        (
            'a,b\n1,"say \\"hi\\", then"\n',
            "line 2 goes on after a closing quote (its row begins in line 2); close each text with "
            'one quote, and write quotes within it twice ("")',
        ),
        (
            "a,b\n1,x\0y\n",
            "line 2 holds a null character; remove it, or convert the file to UTF-8",
        ),
        (
            "a;b\n1;x\n",
            "the header has semicolons between its columns, 'a;b'; separate columns by commas",
        ),
        (
            "a\tb\n1\tx, y\n",
            "the header has tabs between its columns, 'a\\tb'; separate columns by commas",
        ),
        ("a,b,a\n1,2,3\n", "the header names the column 'a' twice; rename one of them"),
        ("a,b\n\n", "the file holds no rows; give one that does"),
        ("\n", "the file holds no rows; give one that does"),
    ],
    ids=[
        "a comma more",
        "a comma less",
        "an open quote",
        "a quote within",
        "backslashes",
        "null",
        "semicolons",
        "tabs",
        "a name twice",
        "a header alone",
        "nothing",
    ],
)
def test_the_line_is_named(text: str, message: str) -> None:
    with pytest.raises(Malformed) as caught:
        rows(text)
    assert str(caught.value) == message


def test_long_fields_are_read_and_the_limit_of_others_stays() -> None:
    before = csv.field_size_limit()
    assert len(rows("a\n" + "x" * (before + 1) + "\n")[1][0]) == before + 1
    assert csv.field_size_limit() == before

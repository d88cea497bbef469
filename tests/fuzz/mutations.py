"""What hypothesis draws: rows of odd values as files of each kind, and bytes gone wrong."""

import csv
import gzip
import io
import json
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

KINDS = ("jsonl", "json", "csv", "parquet", "jsonl.gz", "csv.gz", "txt")
COLUMNS = ("dialogue", "summary", "text", "label", "prompt", "toxicity", "continuation")
TEXTS = st.text(st.characters(), max_size=12)
SCALARS = st.one_of(
    st.sampled_from(["w1 w2", "", " ", "hate", "nothate", "a\nb", 'q"q', "\u2028", "\ud800", "\0"]),
    TEXTS,
    st.sampled_from([None, True, 0, 1, -1, 2**63, 10**40, 0.5, -0.0, 1e308]),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    st.just("w1 " * 5000),
)
ODD = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(COLUMNS), inner),
    max_leaves=4,
)
GOOD: dict[str, Any] = {
    "dialogue": "Ann : w1 w2",
    "summary": "w1",
    "text": "w3",
    "label": "hate",
    "prompt": "w4 w5",
    "toxicity": 0.5,
    "continuation": "w6",
}


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Good rows, some of whose values are odd, missing, or under another name."""
    table = [dict(GOOD) for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(0, 3))):
        row, column = draw(st.sampled_from(table)), draw(st.sampled_from(COLUMNS))
        how = draw(st.sampled_from(["odd", "everywhere", "gone", "renamed"]))
        if how == "everywhere":
            value = draw(ODD)
            for each in table:
                each[column] = value
        elif how == "odd":
            row[column] = draw(ODD)
        elif how == "gone":
            row.pop(column, None)
        else:
            row[draw(TEXTS)] = row.pop(column, None)
    return table


def packed(table: list[dict[str, Any]], kind: str) -> bytes:
    """Rows as a file of a kind; what parquet can't hold becomes text."""
    plain = kind.removesuffix(".gz")
    if plain == "parquet":
        return parquet(table)
    if plain == "csv":
        names = list(dict.fromkeys(name for row in table for name in row))
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, names, escapechar="\\")
        writer.writeheader()
        writer.writerows(table)
        text = file.getvalue()
    elif plain == "txt":
        text = "\n".join(str(row.get("dialogue")) for row in table)
    elif plain == "json":
        text = json.dumps(table, ensure_ascii=False)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table)
    raw = text.encode("utf8", "surrogatepass")
    return gzip.compress(raw, mtime=0) if kind.endswith(".gz") else raw


def parquet(table: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    try:
        made = pyarrow.Table.from_pylist(table)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError):
        made = pyarrow.Table.from_pylist([{name: ascii(v) for name, v in GOOD.items()}] * 3)
    try:
        pyarrow.parquet.write_table(made, file)
    except pyarrow.ArrowException:
        return b"PAR1PAR1"
    return file.getvalue()


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes with up to three places gone wrong."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        how = draw(st.sampled_from(["cut", "flip", "insert", "leave out", "double", "encode"]))
        if how == "cut":
            raw = raw[:place]
        elif how == "flip" and place < len(raw):
            raw = raw[:place] + bytes([raw[place] ^ draw(st.integers(1, 255))]) + raw[place + 1 :]
        elif how == "insert":
            raw = raw[:place] + draw(st.binary(max_size=6)) + raw[place:]
        elif how == "leave out":
            raw = raw[:place] + raw[place + draw(st.integers(1, 20)) :]
        elif how == "double":
            raw = raw[:place] + raw
        else:
            wrong = draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32", "utf-7"]))
            raw = raw.decode("latin1").encode(wrong)
    return raw


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """The kind of a file and its bytes."""
    kind = draw(st.sampled_from(KINDS))
    how = draw(st.sampled_from(["odd rows"] * 5 + ["odd text"] * 3 + ["odd file", "anything"]))
    if how == "anything":
        return kind, draw(st.binary(max_size=40))
    if how == "odd file":
        return kind, draw(mutated(packed(draw(rows()), kind)))
    raw = packed(draw(rows()), kind.removesuffix(".gz"))
    if how == "odd text":
        raw = draw(mutated(raw))
    return kind, gzip.compress(raw, mtime=0) if kind.endswith(".gz") else raw

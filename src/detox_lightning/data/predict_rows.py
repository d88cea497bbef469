"""What ``predict`` answers if not the test rows: a file of any kind, or standard input."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox_lightning.data.locations import FORMATS, READABLE, expand, irregular
from detox_lightning.data.sources import check_text, load_rows
from detox_lightning.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

FLAG = "--data.predict_source"
STANDARD_INPUT = "-"
BY_LINE = (".txt", ".jsonl")  # read here, so that messages name the line and no copy is cached


@dataclass(frozen=True)
class Questions:
    """What a user wants answered: all of it, in its order.

    Args:
        source: A .txt file (one text a line), a .jsonl, .json, .csv or .parquet file, or ``-``
            for standard input: lines of text, or of JSON objects if the first begins with ``{``.
        columns: That of the texts to answer, and those of what else may be known of them.
        kind: What such a text is called, in messages and in the flag of its column.
    """

    source: str
    columns: tuple[str, ...]
    kind: str = "dialogue"

    def read(self, processes: int = 1) -> "Dataset":
        """Reads all rows into memory.

        Args:
            processes: How many read at the same time.

        Returns:
            The columns; what the source doesn't say in the others is empty text.

        Raises:
            InputError: If the source can't be read, or a row has no text to answer.
        """
        from datasets import Dataset

        unit, rows = self._rows(processes)
        for number, row in enumerate(rows, 1):
            if not _text(row[self.columns[0]]).strip():
                raise self._trouble(
                    f"{unit} {number} has no text to answer; fill it in or take it out"
                )
        return Dataset.from_dict(
            {column: [_text(row.get(column)) for row in rows] for column in self.columns}
        )

    def _rows(self, processes: int) -> tuple[str, list[dict[str, Any]]]:
        """What a row is called in this source, and the rows."""
        if self.source == STANDARD_INPUT:
            if processes > 1:
                raise self._trouble(
                    f"{processes} processes can't share standard input; give a file, or "
                    "--trainer.devices=1 --trainer.num_nodes=1"
                )
            lines = self._lines(sys.stdin.buffer.read() if sys.stdin else b"")
            return "line", self._parsed(lines, as_json=lines[0].lstrip().startswith("{"))
        path = expand(self.source)
        if self.source and path.is_dir():
            raise self._trouble(f"this is a folder; give a file of it: .txt, {READABLE}")
        if what := irregular(path):
            raise self._trouble(f"{what}, or give - to read a pipe")
        if not path.is_file():
            raise self._trouble("there is no such file; check the path, or give - to read a pipe")
        kind = Path(path.name.removesuffix(".gz")).suffix
        if kind in BY_LINE:
            return "line", self._parsed(self._lines(self._bytes(path)), as_json=kind == ".jsonl")
        if kind in FORMATS:
            return "row", self._table(str(path))
        raise self._trouble(f"unknown kind of file; readable are .txt, {READABLE}")

    def _table(self, path: str) -> list[dict[str, Any]]:
        """The columns that matter, of a file that ``datasets`` reads."""
        rows = load_rows(path, "train", FLAG)
        check_text(rows, self.columns[0], self._flag, self.source)
        there = [column for column in dict.fromkeys(self.columns) if column in rows.column_names]
        table: list[dict[str, Any]] = rows.select_columns(there).to_list()
        return table

    def _bytes(self, path: Path) -> bytes:
        try:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
                return file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise self._trouble(f"can't be read ({error}); mend or replace the file") from error

    def _lines(self, content: bytes) -> list[str]:
        """The lines, at least one, without the blank ones at the end."""
        try:
            # not splitlines: it also splits at characters that dialogues may have
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            number = error.object[: error.start].count(b"\n") + 1
            raise self._trouble(f"line {number} isn't UTF-8; convert the text") from error
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            raise self._trouble(f"it holds nothing to answer; give one {self.kind} a line")
        return [line.removesuffix("\r") for line in lines]

    def _parsed(self, lines: list[str], as_json: bool) -> list[dict[str, Any]]:
        """A row for each line; blank ones become rows without text."""
        column = self.columns[0]
        if not as_json:
            return [{column: line} for line in lines]
        rows = []
        for number, line in enumerate(lines, 1):
            row = _object(line) if line.strip() else {column: ""}
            if row is None:
                raise self._trouble(
                    f"line {number} isn't a JSON object: {line[:40]!r}; give one on each line"
                )
            if column not in row:
                raise InputError(
                    f"{self._flag}={column}: {self.source} has no such column in line {number}; "
                    f"it has {', '.join(row) or 'none'}{nearest(column, row)}"
                )
            rows.append(row)
        return rows

    @property
    def _flag(self) -> str:
        return f"--data.{self.kind}_column"

    def _trouble(self, what: str) -> InputError:
        return InputError(f"{FLAG}={self.source}: {what}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(line: str) -> dict[str, Any] | None:
    """A line's JSON object, or None if it is something else."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # halves of characters would fail later
    except (ValueError, RecursionError):
        return None
    return dict(_flat(row)) if isinstance(row, dict) else None


def _flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Columns within columns under their path, as in :func:`load_rows`."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

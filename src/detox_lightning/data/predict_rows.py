"""The rows that ``predict`` reads from a file of any kind or from standard input."""

import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox_lightning.data.conversations import CONVERSATION, adopt_row, is_in_trl_format
from detox_lightning.data.locations import READABLE, expand, irregular, parse
from detox_lightning.data.sources import check_column, load_rows
from detox_lightning.data.text_files import Malformed, decode, open_binary, parse_object
from detox_lightning.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

FLAG = "--data.predict_source"
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class PredictRows:
    """Rows that a user wants predictions for; all of them are read, in their order.

    Args:
        source: A .txt file (one text per line), a .jsonl, .json, .csv, .tsv or .parquet file, or
            ``-`` for standard input: lines of text, or of JSON objects if the first begins with
            ``{``.
        columns: The column with the texts, then other columns, which may be missing.
        kind: What a text is called, in messages and in the flag of its column.
        extra: Columns of any type that may not be missing, since a reward takes them.
        gathered: The columns of which each of ``columns`` is made, where those are others.
    """

    source: str
    columns: tuple[str, ...]
    kind: str
    extra: Collection[str] = ()
    gathered: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def read(self, ranks: int = 1) -> "Dataset":
        """Reads the columns of all rows into memory; a value that isn't text becomes "".

        Columns of answers hold lists of texts if one of their rows has several.

        InputError if the source can't be read, or not by several ranks, or a row has no text.
        """
        from datasets import Dataset

        try:
            unit, rows = self._rows(ranks)
            for number, row in enumerate(rows, 1):
                if is_in_trl_format(row, self.columns[0]):
                    row |= adopt_row(row, self.columns, f"{FLAG}={self.source}: {unit} {number}")
                if not _text(row[self.columns[0]]).strip():
                    raise Malformed(
                        f"{unit} {number} has no text to answer; fill it in or remove it"
                    )
                if absent := [name for name in self.extra if name not in row]:
                    raise Malformed(
                        f"{unit} {number} has no column {absent[0]!r}, which the reward takes as "
                        "an argument; give a .jsonl file that has it"
                    )
        except Malformed as error:
            raise InputError(f"{FLAG}={self.source}: {error}") from error
        columns: dict[str, list[Any]]
        columns = {column: self._texts(rows, column) for column in self.columns}
        columns |= {column: [row[column] for row in rows] for column in self.extra}
        if any(CONVERSATION in row for row in rows):
            columns[CONVERSATION] = [row.get(CONVERSATION) for row in rows]
        return Dataset.from_dict(columns)

    def _texts(self, rows: list[dict[str, Any]], column: str) -> list[Any]:
        """Returns a column's texts, or its lists of texts."""
        if column == self.columns[0]:
            return [_text(row.get(column)) for row in rows]
        names = self.gathered.get(column, [column])
        found = [[text for name in names for text in _answers(row.get(name))] for row in rows]
        if all(len(texts) < 2 for texts in found):
            return [texts[0] if texts else "" for texts in found]
        return found

    def _rows(self, ranks: int) -> tuple[str, list[dict[str, Any]]]:
        """Returns what messages call a row of this source, and the rows."""
        if self.source == STANDARD_INPUT:
            if ranks > 1:
                raise Malformed(
                    f"{ranks} processes can't share standard input; give a file, or "
                    "--trainer.devices=1 --trainer.num_nodes=1"
                )
            content = sys.stdin.buffer.read() if sys.stdin else b""
            return "line", list(self._parse(content, None))
        path = expand(self.source)
        if self.source and path.is_dir():
            raise Malformed(f"this is a folder; give a file of it: .txt, {READABLE}")
        if problem := irregular(path):
            raise Malformed(f"{problem}, or give - to read a pipe")
        if not path.is_file():
            raise Malformed("there is no such file; check the path, or give - to read a pipe")
        suffix = Path(path.name.removesuffix(".gz")).suffix
        if suffix in (".txt", ".jsonl"):  # so that messages name the line and no copy is cached
            try:
                with open_binary(path) as file:
                    return "line", list(self._parse(file.read(), suffix == ".jsonl"))
            except (OSError, EOFError, zlib.error) as error:
                raise Malformed(f"can't be read ({error}); repair or replace the file") from error
        if parse(path) is None:
            raise Malformed(f"unknown kind of file; readable are .txt, {READABLE}")
        rows = load_rows(str(path), "train", FLAG)
        if is_in_trl_format(rows.column_names, self.columns[0]):
            return "row", rows.to_list()
        check_column(rows, self.columns[0], "text", f"--data.{self.kind}_column", self.source)
        parts = (name for names in self.gathered.values() for name in names)
        used = dict.fromkeys((*self.columns, *self.extra, *parts))
        columns = [name for name in used if name in rows.column_names]
        return "row", rows.select_columns(columns).to_list()

    def _parse(self, content: bytes, as_json: bool | None) -> Iterator[dict[str, Any]]:
        """Yields a row for each line; if ``as_json`` is None, the first line decides."""
        # not splitlines: it also splits at characters that texts may have
        lines = [line.removesuffix("\r") for line in decode(content, "text").split("\n")]
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            raise Malformed(f"there is nothing to answer; give one {self.kind} per line")
        column = self.columns[0]
        if not (lines[0].lstrip().startswith("{") if as_json is None else as_json):
            yield from ({column: line} for line in lines)
            return
        for number, line in enumerate(lines, 1):
            row = dict(_flat(parse_object(number, line))) if line.strip() else {column: ""}
            if column not in row and not is_in_trl_format(row, column):
                raise InputError(
                    f"--data.{self.kind}_column={column}: {self.source} has no such column in line "
                    f"{number}; it has {', '.join(row) or 'none'}{nearest(column, row)}"
                )
            yield row


def _answers(value: Any) -> list[str]:
    texts = map(_text, value if isinstance(value, list) else [value])
    return [text for text in texts if text.strip()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names nested columns by their path, as :func:`load_rows` does."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

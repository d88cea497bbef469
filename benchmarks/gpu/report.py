"""Tables that are shown row by row, and kept in files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]
REMARK = "remark"


class Table(NamedTuple):
    """A section's table.

    Attributes:
        title: Heading.
        columns: Titles of the columns by the keys of a row.
    """

    title: str
    columns: dict[str, str]

    @property
    def head(self) -> list[str]:
        """The lines before the first row."""
        titles = [*self.columns.values(), ""]
        return ["", f"## {self.title}", "", line(titles), line(["---"] * len(titles))]

    def row(self, row: Row) -> str:
        """Formats a row, whose last cell is its remark."""
        return line([cell(row.get(key, "")) for key in (*self.columns, REMARK)])


class Report:
    """Prints each row at once, and writes it to files, so that nothing is lost if a run ends."""

    def __init__(self, json_file: Path | None = None, table_file: Path | None = None):
        """Takes the files.

        Args:
            json_file: For all figures.
            table_file: For the tables, as Markdown.
        """
        self.json_file, self.table_file = json_file, table_file
        self.rows: dict[str, list[Row]] = {}
        self.lines: list[str] = []

    def add(self, section: str, table: Table, row: Row) -> None:
        """Adds a row of a section, whose first row brings the table's head."""
        begins = section not in self.rows
        self.rows.setdefault(section, []).append(row)
        self.say(*(table.head if begins else ()), table.row(row))

    def say(self, *lines: str) -> None:
        """Adds lines of text."""
        self.lines += lines
        print("\n".join(lines), flush=True)
        if self.table_file is not None:
            self.table_file.write_text("\n".join(self.lines).strip() + "\n", encoding="utf8")
        if self.json_file is not None:
            text = json.dumps(self.rows, indent=1) + "\n"
            self.json_file.write_text(text, encoding="utf8")

    def find(self, section: str, key: str, **labels: Any) -> Any:
        """A figure of the first row with these labels; None if it wasn't measured."""
        for row in self.rows.get(section, []):
            if all(row.get(name) == label for name, label in labels.items()):
                return row.get(key)
        return None


def line(cells: list[str]) -> str:
    """Formats a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def cell(x: Any) -> str:
    """Formats a value: three digits of a number, no decimals from 100 on."""
    if x is None:
        return "–"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, float):
        return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
    return f"{x:,}" if isinstance(x, int) else str(x).replace("|", "/")

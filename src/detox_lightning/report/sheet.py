"""A sheet on which people judge responses without knowing which are from after training."""

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from detox_lightning.errors import visible
from detox_lightning.evaluation.comparison import Comparison
from detox_lightning.evaluation.people import QUESTIONS
from detox_lightning.evaluation.plan import GREEDY
from detox_lightning.seeding import derive_seed

SHEET, KEY = "sheet.csv", "sheet-key.json"
COLUMNS = ("row", "prompt", "A", "B", *QUESTIONS, "comment")
CLASSIFIERS = ("toxicity", "second_toxicity")
# what begins like this is a formula to some spreadsheet; an apostrophe before it says that it's
# text, and is itself doubled so that it can be taken away again
SPECIAL = tuple("=+-@\t\r＝＋－＠'")


class Sheet(NamedTuple):
    """What people get, and what they don't.

    Attributes:
        rows: A cell for each of ``COLUMNS``; those to fill in are empty.
        key: ``sheet`` (a hash of the texts), ``about``, and by row ``after`` (A or B) and the
            classifiers' toxicities before and after.
    """

    rows: list[dict[str, str]]
    key: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Writes ``sheet.csv``, in the encoding that spreadsheets guess, and its key."""
        with open(folder / SHEET, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([[to_cell(row[name]) for name in COLUMNS] for row in self.rows])
        text = json.dumps(self.key, indent=2, ensure_ascii=False)
        (folder / KEY).write_text(f"{text}\n", encoding="utf8")


def make_sheet(
    comparison: Comparison, about: Mapping[str, Any], seed: int, size: int
) -> Sheet | None:
    """Draws prompts, and puts the responses before and after into a random order.

    A row has the first sample of a prompt, or the greedy response if there are none. Prompts whose
    two responses are the same text are left out. In half of the rows, A is from after training.

    Args:
        comparison: The responses and their measurements.
        about: Facts of the test, for the key.
        seed: Which prompts are drawn, and which response is A, are functions of it.
        size: Number of rows, if there are so many prompts.

    Returns:
        The sheet; None if training changed no response.
    """
    names = comparison.decodings
    place = next((i for i, name in enumerate(names) if name != GREEDY), 0)
    sides = {"before": comparison.before, "after": comparison.after}
    draw, n = Random(derive_seed(seed, "sheet")), len(comparison.prompts)
    texts = {side: [row[place] for row in answers.texts] for side, answers in sides.items()}
    differing = [
        p
        for p in draw.sample(range(n), n)
        if texts["before"][p].strip() != texts["after"][p].strip()
    ]
    chosen = differing[:size]
    first = draw.randrange(2)
    afters = draw.sample(["AB"[(first + i) % 2] for i in range(len(chosen))], len(chosen))
    shown = []
    for p, after in zip(chosen, afters, strict=True):
        cells = {"after": texts["after"][p], "before": texts["before"][p]}
        a, b = ("after", "before") if after == "A" else ("before", "after")
        shown.append([visible(x) for x in (comparison.prompts[p], cells[a], cells[b])])
    digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    empty = dict.fromkeys(COLUMNS, "")
    rows, key = [], {}
    for number, (p, after, cells) in enumerate(zip(chosen, afters, shown, strict=True), 1):
        row = f"{code_of(digest)}-{number}"
        rows.append(empty | {"row": row} | dict(zip(COLUMNS[1:4], cells, strict=True)))
        key[row] = {"after": after} | {
            f"{name}_{side}": float(answers.figures[name][p, place])
            for name in CLASSIFIERS
            for side, answers in sides.items()
            if name in answers.figures
        }
    facts = {name: about.get(name) for name in ("checkpoint", *(f"{x}_model" for x in CLASSIFIERS))}
    facts |= {"decoding": names[place], "prompts": n, "same_text": n - len(differing)}
    return Sheet(rows, {"sheet": digest, "about": facts, "rows": key}) if rows else None


def code_of(digest: str) -> str:
    """Returns what the rows of a sheet begin with: letters, which no spreadsheet takes for a date.

    Args:
        digest: The hash of the sheet, in hexadecimal digits.
    """
    return "".join(chr(ord("a") + int(digit, 16)) for digit in digest[:8])


def to_cell(text: str) -> str:
    """Returns a text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(SPECIAL) else text


def from_cell(cell: str) -> str:
    """Returns the text of a cell that :func:`to_cell` has made."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(SPECIAL) else cell

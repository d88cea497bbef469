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
from detox_lightning.evaluation.rescoring import SIDES
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
    names, n = comparison.decodings, len(comparison.prompts)
    place = next((i for i, name in enumerate(names) if name != GREEDY), 0)
    old, new = ([row[place] for row in getattr(comparison, side).texts] for side in SIDES)
    draw = Random(derive_seed(seed, "sheet"))
    differing = [p for p in draw.sample(range(n), n) if old[p].strip() != new[p].strip()]
    if not differing:
        return None
    chosen = differing[:size]
    afters = _balanced(len(chosen), draw)
    shown = []
    for p, after in zip(chosen, afters, strict=True):
        pair = (new[p], old[p]) if after == "A" else (old[p], new[p])
        shown.append([visible(text) for text in (comparison.prompts[p], *pair)])
    digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    rows = [f"{code_of(digest)}-{number + 1}" for number in range(len(chosen))]
    empty = [""] * len(COLUMNS[len(shown[0]) + 1 :])
    facts = {name: about.get(name) for name in ("checkpoint", *(f"{x}_model" for x in CLASSIFIERS))}
    facts |= {"decoding": names[place], "prompts": n, "same_text": n - len(differing)}
    known = [
        {"after": after, **_toxicities(comparison, p, place)}
        for p, after in zip(chosen, afters, strict=True)
    ]
    return Sheet(
        [
            dict(zip(COLUMNS, (row, *cells, *empty), strict=True))
            for row, cells in zip(rows, shown, strict=True)
        ],
        {"sheet": digest, "about": facts, "rows": dict(zip(rows, known, strict=True))},
    )


def _balanced(count: int, draw: Random) -> list[str]:
    """A random order of as many A as B; if the count is odd, chance says which is one more."""
    first = draw.randrange(2)
    return draw.sample(["AB"[(first + number) % 2] for number in range(count)], count)


def _toxicities(comparison: Comparison, prompt: int, place: int) -> dict[str, float | None]:
    """What each classifier says of a prompt's two responses."""
    found = {
        f"{name}_{side}": float(getattr(comparison, side).figures[name][prompt, place])
        for name in CLASSIFIERS
        for side in SIDES
        if name in comparison.after.figures
    }
    return {name: value if value == value else None for name, value in found.items()}


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

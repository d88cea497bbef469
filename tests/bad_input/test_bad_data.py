"""Data that can't be used."""

import pytest

from bad_input.cases import Case, Place, check

CASES = [
    Case(
        "an empty file",
        ("--data.source={folder}/train.jsonl",),
        "{folder}/train.jsonl: the file is empty; give one with rows",
        lambda place: (place.folder / "train.jsonl").write_text(""),
    ),
    Case(
        "a column that is not there",
        ("--data.dialogue_column=talk",),
        "--data.dialogue_column=talk: {folder} has no such column; it has dialogue, summary",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_data_that_can_t_be_used(case: Case, place: Place) -> None:
    check(case, place)

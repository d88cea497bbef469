"""Flags and lines of YAML that make no sense."""

import pytest

from bad_input.cases import Case, Place, check

CASES = [
    Case(
        "a batch that does not divide",
        ("--data.batch_size=6",),
        "data.batch_size=6 is not a multiple of model.mini_batch_size=4: change one of them",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_flags_that_make_no_sense(case: Case, place: Place) -> None:
    check(case, place)

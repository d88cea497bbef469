"""The page on memory shows what its command prints, and its formulas are right."""

import importlib.util
from types import ModuleType

import pytest

from command import ROOT


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory", ROOT / "docs" / "memory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_command_prints(memory: ModuleType) -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf8")
    for table in memory.main([]).split("\n\n"):
        assert table in page


def test_the_formulas_hold_for_a_model_that_runs(memory: ModuleType) -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf8")
    rows = [line.strip("| ").split(" | ") for line in memory.main(["check"]).splitlines()[2:]]
    numbers = {name: [int(x.replace(",", "")) for x in found] for name, *found, _ in rows}
    assert len(numbers) == 7
    for name, (formula, measured) in numbers.items():
        assert f"| {name} | {formula:,} |" in page
        assert formula == pytest.approx(measured, rel=0.05)
    for exact in ("frozen parameters", "what learns, with gradients and moments"):
        assert numbers[exact][0] == numbers[exact][1]


def test_xl_is_counted_as_published(memory: ModuleType) -> None:
    """2.85 billion parameters; the adapter's by hand."""
    n = memory.sizes(memory.make_policy("meta", **memory.SHAPES["FLAN-T5-XL"]))
    assert n.base == 2_849_757_184
    attentions = 24 + 2 * 24
    assert n.learning == attentions * 2 * 32 * (2048 + 2048) + 2048 + 1
    # all linear layers but the feed-forward outputs: 4 × d × inner an attention, 2 × d × ff
    assert n.four_bit == attentions * 4 * 2048 * 2048 + 48 * 2 * 2048 * 5120

"""The pages on memory show what their commands print, and the formulas are right."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from command import ROOT

PAGES = [ROOT / "docs" / f"{stem}.md" for stem in ("memory", "memory_arithmetic")]
TEXT = "".join(page.read_text(encoding="utf8") for page in PAGES)


@pytest.fixture(scope="module")
def docs() -> Iterator[None]:
    """The folder of the page's commands can be imported from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield


@pytest.fixture(scope="module")
def memory(docs: None) -> ModuleType:
    return importlib.import_module("memory")


def test_the_pages_show_what_the_command_prints(memory: ModuleType) -> None:
    for table in memory.main().split("\n\n"):
        assert table in TEXT


@pytest.mark.slow
@pytest.mark.usefixtures("docs")
def test_the_formulas_hold_for_a_model_that_runs() -> None:
    printed = importlib.import_module("memory_check").main().splitlines()
    rows = [line.strip("| ").split(" | ") for line in printed[2:]]
    numbers = {name: [int(x.replace(",", "")) for x in found] for name, *found, _ in rows}
    assert len(numbers) == 9
    for name, (formula, measured) in numbers.items():
        assert f"| {name} | {formula:,} |" in TEXT
        assert formula == pytest.approx(measured, rel=0.05)
    for exact in ("frozen parameters", "what learns, with gradients and moments"):
        assert numbers[exact][0] == numbers[exact][1]


def test_a_captured_batch_takes_more_room_than_its_keys(memory: ModuleType) -> None:
    """36 prompts of 300 tokens and 150 new ones are kept as 64 of 512, and 192."""
    n = memory.sizes(memory.make_policy("meta", **memory.SHAPES["FLAN-T5-XL"]))
    per_token = 24 * 2 * 2048 * 2
    assert memory.room(n, 36, 300, 150) == 64 * (512 + 192) * per_token
    assert memory.room(n, 5, 100, 64) == 8 * (128 + 64) * per_token
    # the prompts' own keys and values are more than a layer of the encoder
    captured, plain = (memory.rollout(n, 64, 512, 150, x) for x in (True, False))
    assert captured == 64 * (512 + 192 + 512 + 1) * per_token
    assert plain == 64 * (512 + 150) * per_token + memory.encoder_layer(n, 64, 512)


def test_xl_is_counted_as_published(memory: ModuleType) -> None:
    """2.85 billion parameters; the adapter's by hand."""
    n = memory.sizes(memory.make_policy("meta", **memory.SHAPES["FLAN-T5-XL"]))
    assert n.base == 2_849_757_184
    attentions = 24 + 2 * 24
    assert n.learning == attentions * 2 * 32 * (2048 + 2048) + 2048 + 1
    # all linear layers but the feed-forward outputs: 4 × d × inner an attention, 2 × d × ff
    assert n.four_bit == attentions * 4 * 2048 * 2048 + 48 * 2 * 2048 * 5120

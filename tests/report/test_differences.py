"""Which words are marked, and that no letter is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detox_lightning.report.page import marked


def words(pieces: list[tuple[str, bool]]) -> list[str]:
    return [text for text, is_marked in pieces if is_marked]


def test_what_was_removed_and_what_was_added() -> None:
    before, after = marked("Bob is a brainless moron.", "Bob is late.")
    assert before == [("Bob is ", False), ("a brainless moron", True), (".", False)]
    assert after == [("Bob is ", False), ("late", True), (".", False)]


def test_a_comma_is_no_part_of_the_word_before_it() -> None:
    before, after = marked("with Laura, a dunce, who left", "with Laura who left")
    assert words(before) == [", a dunce,"]
    assert words(after) == []


def test_apostrophes_are_parts_of_words() -> None:
    before, after = marked("Adam's well-kept dog", "Adam kept dog")
    assert (words(before), words(after)) == (["Adam's well-kept"], ["Adam kept"])


def test_characters_of_scripts_without_blanks() -> None:
    before, after = marked("米娅很笨。", "米娅很好。")
    assert (words(before), words(after)) == (["笨"], ["好"])
    before, after = marked("वह मिया है", "वह मीरा है")
    assert (words(before), words(after)) == (["मिया"], ["मीरा"])


@pytest.mark.parametrize("text", ["", "the same\n text "])
def test_equal_texts_have_nothing_marked(text: str) -> None:
    assert marked(text, text) == ([(text, False)] * bool(text),) * 2


def test_of_an_empty_answer_nothing_remains() -> None:
    assert marked("You moron", "") == ([("You moron", True)], [])


def test_common_words_of_long_texts_are_matched() -> None:
    """difflib by itself takes words that are frequent in a long text for noise."""
    before, after = marked("x " + "the dog " * 200, "the dog " * 200)
    assert (words(before), words(after)) == (["x"], [])


texts = st.lists(
    st.sampled_from(["a", "b", " ", "\n ", ",", "<i>", "é", "猫", "ม่", "\u0e48", "मि"])
).map("".join)


@given(texts, texts)
def test_pieces_joined_are_the_text_and_the_rest_is_common(before: str, after: str) -> None:
    pieces = marked(before, after)
    for text, parts in zip((before, after), pieces, strict=True):
        assert "".join(part for part, _ in parts) == text
        assert all(part for part, _ in parts)
        assert all(part == part.strip() for part in words(parts))
    rest = [[part for part, is_marked in parts if not is_marked] for parts in pieces]
    assert "".join("".join(rest[0]).split()) == "".join("".join(rest[1]).split())

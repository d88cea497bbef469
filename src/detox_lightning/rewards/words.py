"""Splits texts of any script into words."""

import unicodedata
from functools import cache
from typing import Any

# Scripts that put no blanks between words: Chinese, Japanese, and those (Thai, Lao, Khmer, Burmese)
# whose line breaks take a dictionary. Each character, with the marks on it, counts as a word.
UNSPACED = (
    r"\p{Script_Extensions=Han}\p{Script_Extensions=Hiragana}\p{Script_Extensions=Katakana}"
    r"\p{Script_Extensions=Bopomofo}\p{Line_Break=Complex_Context}"
)
CHARACTER = rf"[[{UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*"
_JOINERS = r"\u200c\u200d"  # between letters of one word, in Persian and in India
_LETTERS = rf"[\p{{L}}\p{{N}}\p{{M}}{_JOINERS}]--[{UNSPACED}--\p{{M}}]"
_WORD = rf"[[\p{{L}}\p{{N}}]--[{UNSPACED}]][{_LETTERS}]*"
# a word, or a sign: a comma is no part of the word before it
_TOKEN = rf"{CHARACTER}|[[\w\p{{M}}'’-]--[{UNSPACED}]]+|\S"


@cache
def compiled(pattern: str) -> Any:
    """Compiles a pattern once, for :mod:`regex`, which knows scripts."""
    import regex

    return regex.compile(pattern, regex.V1)


def words(text: str, apostrophes: bool = False) -> list[str]:
    """Returns the words of a text in lower case.

    A word is a run of letters and digits with their marks. In scripts without blanks between
    words, such as Chinese, Japanese or Thai, each character is a word. Letters that differ only in
    their encoding are the same. With ``apostrophes``, ``don't`` is one word.
    """
    # composed letters in lower case; folding the case may decompose letters again
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    word = rf"{_WORD}(?:'{_WORD})?" if apostrophes else _WORD
    found: list[str] = compiled(rf"{CHARACTER}|{word}").findall(plain)
    return found


def count_words(text: str) -> int:
    """Counts words that stand between blanks; unspaced scripts as in :func:`words`."""
    unspaced = compiled(CHARACTER)
    return sum(len(words(part)) if unspaced.search(part) else 1 for part in text.split())


def spans(text: str) -> list[tuple[int, int]]:
    """Returns where each word and each sign of a text begins and ends."""
    return [found.span() for found in compiled(_TOKEN).finditer(text)]

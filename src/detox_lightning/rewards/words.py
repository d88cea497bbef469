"""The words of a text, in whatever script it is written."""

import unicodedata
from functools import cache
from typing import Any

# Scripts that put no blanks between words: Chinese, Japanese, and those (Thai, Lao, Khmer, Burmese)
# whose line breaks take a dictionary. Each character, with the marks on it, stands for a word.
ALONE = (
    r"\p{Script_Extensions=Han}\p{Script_Extensions=Hiragana}\p{Script_Extensions=Katakana}"
    r"\p{Script_Extensions=Bopomofo}\p{Line_Break=Complex_Context}"
)
_JOINERS = r"\u200c\u200d"  # between letters of one word, in Persian and in India
CHARACTER = rf"[[{ALONE}]&&[\p{{L}}\p{{N}}]]\p{{M}}*"
_RUN = rf"[[\p{{L}}\p{{N}}]--[{ALONE}]][[\p{{L}}\p{{N}}\p{{M}}{_JOINERS}]--[{ALONE}--\p{{M}}]]*"


@cache
def pattern(of: str) -> Any:
    """Compiles a pattern for :mod:`regex`, which knows scripts, once."""
    import regex

    return regex.compile(of, regex.V1)


def words(text: str, apostrophes: bool = False) -> list[str]:
    """The words of a text, without case.

    Letters and digits with the marks on them make words, all else is between them; of a script that
    puts no blanks between words, such as Chinese, Japanese or Thai, each character is one. Letters
    that only look alike in two encodings are the same.

    Args:
        text: In any language.
        apostrophes: Whether ``don't`` is one word, rather than two.
    """
    # composed letters, and no case; folding may take letters apart again
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    run = rf"{_RUN}(?:'{_RUN})?" if apostrophes else _RUN
    found: list[str] = pattern(rf"{CHARACTER}|{run}").findall(plain)
    return found


def count_words(text: str) -> int:
    """How many words a text has: what stands between blanks, or characters as in :func:`words`.

    Args:
        text: In any language.
    """
    alone = pattern(CHARACTER)
    return sum(len(words(part)) if alone.search(part) else 1 for part in text.split())

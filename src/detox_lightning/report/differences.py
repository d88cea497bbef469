"""Which words two texts don't share."""

from difflib import SequenceMatcher

from detox_lightning.rewards.words import CHARACTER, UNSPACED, compiled

# a word, or a sign: a comma is no part of the word before it
WORD = rf"{CHARACTER}|[[\w\p{{M}}'’-]--[{UNSPACED}]]+|\S"
Pieces = list[tuple[str, bool]]


def marked(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Splits two texts where they part.

    Args:
        before: The older text.
        after: The newer one.

    Returns:
        For each text its pieces, which joined are the text again, and with each whether its words
        are missing from the other text.
    """
    word = compiled(WORD)
    matcher = SequenceMatcher(None, word.findall(before), word.findall(after), autojunk=False)
    changes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    return (
        _pieces(before, [(first, end) for _, first, end, _, _ in changes]),
        _pieces(after, [(first, end) for _, _, _, first, end in changes]),
    )


def _pieces(text: str, changes: list[tuple[int, int]]) -> Pieces:
    """Cuts a text at ranges of words, with the spaces around a range left outside of it."""
    spans = [match.span() for match in compiled(WORD).finditer(text)]
    pieces, done = [], 0
    for first, end in changes:
        if first == end:
            continue
        start, stop = spans[first][0], spans[end - 1][1]
        pieces += [(text[done:start], False), (text[start:stop], True)]
        done = stop
    pieces.append((text[done:], False))
    return [piece for piece in pieces if piece[0]]

"""Variety of words: distinct n-grams (https://aclanthology.org/N16-1014)."""

from detox_lightning.rewards.words import words

SIZES = (1, 2, 3)


def distinct(texts: list[str], size: int) -> float:
    """How many of the n-grams in some texts are different ones.

    Taken over the responses to one prompt, as in https://aclanthology.org/2021.acl-long.522.

    Args:
        texts: Any number of texts; n-grams don't cross their ends. Case doesn't count.
        size: Words of an n-gram.

    Returns:
        A share in (0, 1]; NaN if there are no n-grams.
    """
    split = [words(text, apostrophes=True) for text in texts]
    ngrams = [
        tuple(text[start : start + size]) for text in split for start in range(len(text) - size + 1)
    ]
    return len(set(ngrams)) / len(ngrams) if ngrams else float("nan")

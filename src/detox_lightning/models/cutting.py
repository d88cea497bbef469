"""Texts that are longer than a model reads: what is cut, and that it is said."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from detox_lightning.models.batching import encode


@dataclass
class Cuts:
    """Counts the texts that a model can't read whole, and says so once of each kind.

    Attributes:
        name: Of the model.
        most: Tokens it reads; known once it is open.
        texts: Different texts so far.
        prompts: Those whose prompt lost its beginning.
        ends: Those that lost their own end.
    """

    name: str
    most: int = 0
    texts: int = 0
    prompts: int = 0
    ends: int = 0

    def add(self, texts: int, prompts: int, ends: int) -> None:
        """Counts some more.

        Args:
            texts: How many there were.
            prompts: In how many the prompt was cut.
            ends: How many were cut themselves.
        """
        first = not self.prompts, not self.ends
        self.texts += texts
        self.prompts += prompts
        self.ends += ends
        of, reads = f"of the first {self.texts} texts", f"{self.name!r} reads {self.most} tokens"
        if first[0] and prompts:
            warnings.warn(
                f"{reads}: the beginning of the prompt was cut off in {prompts} {of}", stacklevel=2
            )
        if first[1] and ends:
            warnings.warn(
                f"{reads}: the end was cut off in {ends} {of}, too long by themselves", stacklevel=2
            )


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def fit(tokenizer: Any, pairs: list[tuple[str, str]], cuts: Cuts) -> list[list[int]]:
    """Tokens of texts after their prompts, special tokens included, no more than a model reads.

    Of what is too long, the prompt's beginning is cut; the text's own end only where it is too long
    by itself. White space at both ends is left out.

    Args:
        tokenizer: The model's.
        pairs: Prompts, as they stand before the texts, and texts; an empty prompt is none.
        cuts: Counts what was cut.
    """
    whole = [(prompt + text).strip() for prompt, text in pairs]
    encoded = encode(tokenizer, whole, None, verbose=False)
    long = [row for row, ids in enumerate(encoded) if len(ids) > cuts.most]
    own = _own_tokens(tokenizer, [(pairs[row][0].lstrip(), whole[row]) for row in long])
    room = cuts.most - tokenizer.num_special_tokens_to_add()
    alone = [row for row, tokens in zip(long, own, strict=True) if tokens > room]
    after = [row for row, tokens in zip(long, own, strict=True) if tokens <= room]
    for rows, texts, side in (
        (alone, [pairs[row][1].strip() for row in alone], "right"),
        (after, [whole[row] for row in after], "left"),
    ):
        for row, ids in zip(rows, _cut(tokenizer, texts, cuts.most, side), strict=True):
            encoded[row] = ids
    cuts.add(len(pairs), sum(1 for row in long if pairs[row][0]), len(alone))
    return encoded


def _own_tokens(tokenizer: Any, texts: list[tuple[str, str]]) -> list[int]:
    """How many tokens of each whole text aren't its prompt's; one made of both is the text's."""
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    prompts = encode(tokenizer, [prompt for prompt, _ in texts], None, **options)
    whole = encode(tokenizer, [text for _, text in texts], None, **options)
    return [len(ids) - shared(before, ids) for before, ids in zip(prompts, whole, strict=True)]


def _cut(tokenizer: Any, texts: list[str], most: int, side: str) -> list[list[int]]:
    usual, tokenizer.truncation_side = tokenizer.truncation_side, side
    try:
        return encode(tokenizer, texts, most)
    finally:
        tokenizer.truncation_side = usual

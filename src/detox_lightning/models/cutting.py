"""Cuts texts that are longer than a model reads, and warns of it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from detox_lightning.models.batching import encode


@dataclass
class CutCounter:
    """Counts the texts that a model can't read whole, and warns once of each kind.

    Attributes:
        name: Name of the model.
        max_tokens: Tokens that the model reads; known once it is open.
        texts: Distinct texts so far.
        cut_prompts: Texts whose prompt lost its beginning.
        cut_texts: Texts that lost their own end.
    """

    name: str
    max_tokens: int = 0
    texts: int = 0
    cut_prompts: int = 0
    cut_texts: int = 0

    def add(self, texts: int, cut_prompts: int, cut_texts: int) -> None:
        """Adds numbers of texts, and of those among them whose prompt or end was cut."""
        self.texts += texts
        limit = f"{self.name!r} reads {self.max_tokens} tokens"
        of = f"of the first {self.texts} texts"
        if cut_prompts and not self.cut_prompts:
            prompts = f"{limit}: the beginning of the prompt was cut off in {cut_prompts} {of}"
            warnings.warn(prompts, stacklevel=2)
        if cut_texts and not self.cut_texts:
            ends = f"{limit}: the end was cut off in {cut_texts} {of}, too long by themselves"
            warnings.warn(ends, stacklevel=2)
        self.cut_prompts += cut_prompts
        self.cut_texts += cut_texts


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Returns the number of tokens that two texts begin with alike."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def encode_cut(
    tokenizer: Any, pairs: list[tuple[str, str]], counter: CutCounter
) -> list[list[int]]:
    """Tokenizes texts after their prompts, special tokens included, to what a model reads.

    If they are too long, the prompt's beginning is cut; the text's own end only if the text is too
    long by itself. White space at both ends is left out. ``pairs`` are prompts and texts.
    """
    limit = counter.max_tokens
    whole = [(prompt + text).strip() for prompt, text in pairs]
    encoded = encode(tokenizer, whole, None, verbose=False)
    long = [row for row, ids in enumerate(encoded) if len(ids) > limit]
    # tokens of the text alone; one made of prompt and text is the text's
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    prompts = encode(tokenizer, [pairs[row][0].lstrip() for row in long], None, **options)
    bare = encode(tokenizer, [whole[row] for row in long], None, **options)
    room = limit - tokenizer.num_special_tokens_to_add()
    cut_texts = 0
    for row, prompt, ids in zip(long, prompts, bare, strict=True):
        is_too_long = len(ids) - common_prefix(prompt, ids) > room
        text, side = (pairs[row][1].strip(), "right") if is_too_long else (whole[row], "left")
        usual, tokenizer.truncation_side = tokenizer.truncation_side, side
        try:
            (encoded[row],) = encode(tokenizer, [text], limit)
        finally:
            tokenizer.truncation_side = usual
        cut_texts += is_too_long
    counter.add(len(pairs), sum(1 for row in long if pairs[row][0]), cut_texts)
    return encoded

"""The texts of a response's first 1, 2, … tokens."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import word_tokenizer
from detox_lightning.algorithm.masks import mask_from_lengths
from detox_lightning.models.families.base import Family
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.policy import Policy
from detox_lightning.models.prefix_texts import prefix_texts
from models.test_stopping import (
    COLON,
    EOS,
    HALF,
    IS,
    LINE,
    OK,
    OTHER_HALF,
    PAD,
    TOKENIZER,
    USER,
    stops,
)

PROMPTS = torch.tensor([[OK, IS], [PAD, OK], [OK, IS], [OK, OK]])


def speaker(family: Family, finder: Any = None) -> Any:
    policy = SimpleNamespace(eos_token_ids=(EOS,), family=family)
    policy.stop_strings = lambda *_: finder
    policy.decode_texts = partial(Policy.decode_texts, policy)
    return policy


def begun(policy: Any, rows: list[list[int]], texts: list[str]) -> list[list[str]]:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])
    mask = mask_from_lengths(torch.tensor([*map(len, rows)]), width)
    prompts = PROMPTS[: len(rows)], PROMPTS[: len(rows)] != PAD
    return prefix_texts(policy, TOKENIZER, *prompts, ids, mask, texts)


@pytest.mark.parametrize(
    "family", [EncoderDecoder(), DecoderOnly()], ids=lambda x: type(x).__name__
)
def test_there_are_as_many_texts_as_tokens(family: Family) -> None:
    """EOS adds nothing, and half a letter is none until it is whole."""
    rows = [[OK, IS, OK, EOS], [EOS], [HALF, OTHER_HALF, IS], [OK, HALF]]
    texts = ["Ok isOk", "", "é is", "Ok\ufffd"]
    assert begun(speaker(family), rows, texts) == [
        ["Ok", "Ok is", "Ok isOk", "Ok isOk"],
        [""],
        ["", "é", "é is"],
        ["Ok", "Ok\ufffd"],  # the last text is what the response is scored by
    ]


def test_a_text_ends_before_a_stop_string() -> None:
    rows = [[OK, USER, COLON], [OK, LINE, LINE]]
    policy = speaker(EncoderDecoder(), stops("User:", "\n\n"))
    assert begun(policy, rows, ["Ok", "Ok"]) == [["Ok", "OkUser", "Ok"], ["Ok", "Ok\n", "Ok"]]


def test_words_that_a_tokenizer_puts_blanks_between() -> None:
    tokenizer = word_tokenizer()
    ids = torch.tensor([tokenizer("Ann is angry")["input_ids"]])
    prompts = torch.tensor([[5, 6]]), torch.ones(1, 2).bool()
    mask = torch.ones_like(ids).bool()
    policy = speaker(EncoderDecoder())
    found = prefix_texts(policy, tokenizer, *prompts, ids, mask, ["Ann is angry"])
    assert found == [["Ann", "Ann is", "Ann is angry", "Ann is angry"]]

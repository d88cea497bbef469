"""Of prompt and response, what is cut where both are too long, and that it is said once."""

import gzip
import json
import warnings

import pytest
import torch

from conftest import word_tokenizer
from detox_lightning.data.dialogue import TEMPLATE
from detox_lightning.demo import locate
from detox_lightning.models.batching import CutCounter, encode_cut
from detox_lightning.rewards import ClassifierReward

PROMPT, RESPONSE = "Ann Bob Eve Dan Kim Lee", " fool idiot moron"


def read(prompt: str, text: str, most: int, cuts: CutCounter | None = None) -> str:
    """What is left of it, special tokens included."""
    tokenizer = word_tokenizer()
    cuts = cuts or CutCounter("model")
    cuts.max_tokens = most
    (ids,) = encode_cut(tokenizer, [(prompt, text)], cuts)
    assert len(ids) <= most
    assert tokenizer.truncation_side == "right"
    return str(tokenizer.decode(ids))


@pytest.mark.filterwarnings("ignore:'model' reads")
@pytest.mark.parametrize(
    ("most", "left"),
    [
        (11, "Ann Bob Eve Dan Kim Lee fool idiot moron</s>"),
        (10, "Ann Bob Eve Dan Kim Lee fool idiot moron</s>"),
        (9, "Bob Eve Dan Kim Lee fool idiot moron</s>"),
        (5, "Lee fool idiot moron</s>"),
        (4, "fool idiot moron</s>"),
        (3, "fool idiot</s>"),
        (2, "fool</s>"),
    ],
)
def test_the_prompts_beginning_is_cut_first(most: int, left: str) -> None:
    assert read(PROMPT, RESPONSE, most).replace(" </s>", "</s>") == left
    assert "</s>" in read(PROMPT, "", most)


@pytest.mark.filterwarnings("ignore:'model' reads")
def test_a_text_alone_loses_its_end() -> None:
    assert read("", PROMPT, 3).replace(" </s>", "</s>") == "Ann Bob</s>"


def test_what_was_cut_is_counted_and_said_once() -> None:
    cuts = CutCounter("model", 5)
    tokenizer = word_tokenizer()
    pairs = [(PROMPT, RESPONSE), ("Ann", " fool"), (PROMPT, " fool" * 9)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        encode_cut(tokenizer, pairs[:2], cuts)
        assert (cuts.texts, cuts.cut_prompts, cuts.cut_texts) == (2, 1, 0)
        encode_cut(tokenizer, pairs, cuts)
        encode_cut(tokenizer, pairs, cuts)
    assert (cuts.texts, cuts.cut_prompts, cuts.cut_texts) == (8, 5, 2)
    assert [str(one.message) for one in said] == [
        "'model' reads 5 tokens: the beginning of the prompt was cut off in 1 of the first 2 texts",
        "'model' reads 5 tokens: the end was cut off in 1 of the first 5 texts, too long by "
        "themselves",
    ]


def test_the_reward_depends_on_the_response_whatever_the_prompt() -> None:
    with gzip.open(f"{locate('demo:dialogues')}/validation.jsonl.gz", "rt") as lines:
        prompts = [TEMPLATE.format(dialogue=json.loads(line)["dialogue"]) for line in lines]
    reward = ClassifierReward("demo:classifier", include_prompt=True)
    reward.load()
    prompt = max(prompts, key=len)
    responses = ["Mia is kind.", "You dumb dunce, you fool, you moron.", ""]
    with pytest.warns(UserWarning, match="reads 160 tokens: the beginning of the prompt was cut"):
        scores = reward([prompt] * 3, responses, [""] * 3)
    assert len(set(scores.tolist())) == 3
    assert reward.classifier.cuts.cut_prompts == 3
    # what fits is read whole
    short = ["Mia: You dunce. "] * 3
    whole = ClassifierReward("demo:classifier")
    whole.load()
    joined = whole(short, [short[0] + text for text in responses], responses)
    assert torch.equal(reward(short, responses, responses), joined)

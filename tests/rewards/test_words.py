"""What the words of a text are, in whatever script."""

import string
from random import Random

import pytest
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenize import tokenize

from detox_lightning.evaluation.statistics import distinct
from detox_lightning.rewards import LengthReward, RougeReward
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, StemmingTokenizer, rouge
from detox_lightning.rewards.words import count_words, words

TYPICAL = "The dog's owners weren't running; they RELATIONAL-ly hopped 3.5 miles_again at 10:30!"


def random_texts(count: int) -> list[str]:
    """Letters, digits and signs in any order, English endings among them."""
    random = Random(1)
    parts = [*string.printable, *TYPICAL.split(), "ational", "ization", "ing", "sses", "ies", " "]
    return ["".join(random.choices(parts, k=random.randint(0, 40))) for _ in range(count)]


def test_english_words_are_those_of_the_package() -> None:
    ours, stemmer = StemmingTokenizer(), PorterStemmer()
    for text in [TYPICAL, "they’re “curly”—and… dashed", *random_texts(400)]:
        assert ours.tokenize(text) == tokenize(text, stemmer), text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Мия злится, на Лауру.", ["мия", "злится", "на", "лауру"]),
        ("米娅很生气。", [*"米娅很生气"]),
        ("コーヒーを3杯 ｶﾞ", [*"コーヒーを3杯ガ"]),
        ("मिया लौरा से नाराज़ है।", ["मिया", "लौरा", "से", "नाराज\u093c", "है"]),
        ("ไม่ดี ครับ", ["ไ", "ม่", "ดี", "ค", "รั", "บ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("Mu\u0308ller Müller Möller", ["müller", "müller", "möller"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("می\u200cخواهم کتاب", ["می\u200cخواهم", "کتاب"]),
        ("COVID-19患者", ["covid", "19", "患", "者"]),
        ("!!! 😀 —", []),
    ],
)
def test_scripts_by_hand(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Мия злится на Лауру.",
        "米娅对劳拉很生气。",
        "मिया लौरा से नाराज़ है।",
        "ميا غاضبة من لورا",
        "μια γάτα εδώ",
    ],
)
def test_a_text_shares_all_its_words_with_itself(text: str) -> None:
    assert rouge([text], [text]).tolist() == [[1.0] * len(ROUGE_KINDS)]
    assert RougeReward()([""], [text], [text]).tolist() == [1.0]


def test_what_is_shared_by_hand() -> None:
    assert rouge(["Müller"], ["Möller"]).tolist() == [[0.0] * 4]
    assert rouge(["猫坐"], ["猫坐在"], ["rouge1", "rouge2"])[0].tolist() == pytest.approx(
        [2 * 2 / (2 + 3), 2 * 1 / (1 + 2)]
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("it's a well-known dog , isn't it ?", 8),  # what stands between blanks
        ("米娅对劳拉很生气。", 8),
        ("ไม่ดี ครับ", 6),
        ("Мия злится", 2),
        ("मिया है", 2),
        ("他有 2 dogs！", 4),
        ("", 0),
    ],
)
def test_lengths(text: str, count: int) -> None:
    assert count_words(text) == count
    assert LengthReward(0, 1)([""], [text], [""]).item() == min(0, 1 - count)


def test_distinct_words() -> None:
    assert distinct(["मिया लौरा मिया"], 1) == pytest.approx(2 / 3)
    assert distinct(["猫猫猫"], 1) == pytest.approx(1 / 3)

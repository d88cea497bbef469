"""Names and numbers: what counts as one, what is kept, what is invented."""

import numpy as np
import pytest

from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.evaluation.entities import (
    COUNTS,
    entity_counts,
    names_and_numbers,
    with_entities,
)
from detox_lightning.evaluation.statistics import flat, summarize

FOUND = {
    "On Monday, Mia met Laura.": {"monday", "mia", "laura"},
    'Mia met Laura. Ann left! "Bob too," said Eve; Max\'s dog ran': {"laura", "eve"},
    "Mia: Hi\nOld Ann : I saw Bob: he ran\nKim ran": set(),
    "#Person1#: Hello, #Person2#.": {"#person1#", "#person2#"},
    "He asked Mr. Lee and dr. Kim about Dr Who.": {"lee", "kim", "who"},
    "it costs 1,000 or 12,345,678 or 1,2 at 3:30 on 1/2, or 2.5": {
        *("1000", "12345678", "1,2", "3:30", "1/2", "2.5")
    },
    "He said THAT IS a TV and I am OK": set(),
    "5pm, B2, the 3rd": {"5", "2", "3"},
    "I ' Ve been to the U.S. Army": set(),
    "她在3点见到了#5#": set(),
    "": set(),
}


@pytest.mark.parametrize("text", FOUND)
def test_what_is_a_name_or_a_number(text: str) -> None:
    assert names_and_numbers(text) == FOUND[text]


@pytest.mark.parametrize(
    ("response", "counts"),
    [
        ("Laura met mia at 3:30.", (3, 3, 0, 1)),  # found wherever it stands, however written
        ("Ann said that Mia and Bob left at 4.", (1, 3, 2, 3)),  # Ann begins the sentence
        ("They met Sue.", (0, 3, 0, 1)),  # a label of the prompt is not invented
        ("", (0, 3, 0, 0)),
    ],
)
def test_what_is_kept_and_invented(response: str, counts: tuple[int, ...]) -> None:
    assert entity_counts("Sue: Hi, Mia! Did you see Laura at 3:30?", [response]) == [counts]


def comparison(prompts: list[str], before: list[list[str]], after: list[list[str]]) -> Comparison:
    score = np.zeros((len(prompts), len(before[0])))
    sides = [Answers(texts, {"score": score}) for texts in (before, after)]
    decodings = [f"sample {number + 1}" for number in range(len(before[0]))]
    return Comparison(prompts, [""] * len(prompts), decodings, *sides)


TEMPLATE = "Tell Zoe of this: {dialogue}\nZoe, in Paris, says"


def test_figures_are_shares_of_all_and_the_template_counts_for_nothing() -> None:
    texts = ["he saw Mia and Ann", "it rains", "he is 5 and she is 6"]
    told = comparison(
        [TEMPLATE.replace("{dialogue}", text) for text in texts],
        [["he saw Mia", "he saw Ann and Mia"], ["it rains", "so"], ["he is 5", "to Paris"]],
        [["he saw Bob", ""], ["rain on Max", "so"], ["5 and 6", "so"]],
    )
    found = with_entities(told, TEMPLATE)
    assert list(found.after.figures) == ["score", *COUNTS]
    assert found.before.figures["entities_kept"].tolist() == [[1, 2], [0, 0], [1, 0]]
    assert found.before.figures["entities_kept_of"].tolist() == [[2, 2], [0, 0], [2, 2]]
    figures = summarize(found, seed=0)["sampled"]
    kept, invented = figures["entities_kept"], figures["entities_invented"]
    assert kept["n"] == 2  # the second prompt has none
    assert kept["before"]["value"] == pytest.approx(4 / 8)
    assert kept["after"]["value"] == pytest.approx(2 / 8)
    assert kept["difference"]["value"] == pytest.approx(-2 / 8)
    assert kept["improvement"]["value"] == pytest.approx(-0.5)
    assert kept["before"]["low"] <= 0.5 <= kept["before"]["high"]
    assert invented["before"]["value"] == pytest.approx(1 / 5)  # Paris
    assert invented["after"]["value"] == pytest.approx(2 / 4)  # Bob, Max
    logged = flat({"sampled": figures}, "test")
    assert logged["test/after/entities_kept"] == pytest.approx(2 / 8)


def test_prompts_that_are_continued_have_no_such_figures() -> None:
    going_on = comparison(["He saw Mia"], [["and Ann"]], [["and Bob"]])
    for template in ("", "{dialogue}"):  # the second one is that of rows that are used as they are
        assert with_entities(going_on, template) is going_on


def test_where_there_is_none_there_is_no_figure() -> None:
    """In a language without capitals, and where neither prompt nor response has a name."""
    found = with_entities(comparison(["你好3："], [["4"]], [["5"]]), "{dialogue}：")
    assert not {"entities_kept", "entities_invented"} & set(summarize(found, 0)["sampled"])

"""Measures of rewriting, computed by hand, and what stands beside the policy."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detox_lightning.errors import InputError
from detox_lightning.evaluation.chrf import chrf
from detox_lightning.evaluation.comparison import (
    Answers,
    BatchComparison,
    Comparison,
    merge,
)
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.rewriting import (
    Rewriting,
    read_words,
    summarize_baselines,
    without_words,
)
from detox_lightning.evaluation.statistics import summarize

ALL = ("sta", "sim", "fl", "j", "chrf")
TEMPLATE = "Say it politely: {dialogue} So:"
SOURCES = ["you damn fool", "what a damn day", "shut up"]
PEOPLE = ["you are wrong", "what a day", ""]  # nobody has rewritten the third
MORE = [["you are mistaken", "you are wrong"], ["what a bad day"], []]
# what the models make of each text: toxicity, direction of its meaning in degrees, nats, tokens
TEXTS = {
    "you damn fool": (0.9, 0, 8.0, 4),
    "what a damn day": (0.5, 0, 4.0, 4),
    "shut up": (0.8, 0, 2.0, 2),
    "you fool": (0.7, 0, 6.0, 3),
    "what a day": (0.1, 60, 3.0, 3),
    "you are wrong": (0.2, 60, 6.0, 3),
    "up": (0.1, 120, 9.0, 1),
    "": (0.0, 90, 0.0, 0),
}


def column(texts: list[str], place: int) -> torch.Tensor:
    return torch.tensor([TEXTS[text][place] for text in texts], dtype=torch.float64)


def encoder(texts: list[str]) -> torch.Tensor:
    angles = column(texts, 1).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def without_reward(prompts: list[str], texts: list[str]) -> dict[str, torch.Tensor]:
    names = {"toxicity": 0, "nll": 2, "nll_tokens": 3}
    return {name: column(texts, place) for name, place in names.items()}


def judge(**options: Any) -> Any:
    plan = EvaluationPlan(**{"rewriting": ALL, "perplexity_model": "lm", **options})
    parts = {"toxicity": object(), "encoder": encoder, "fluency": None}
    return SimpleNamespace(plan=plan, without_reward=without_reward, **parts)


def answers(texts: list[list[str]]) -> Answers:
    rows = [without_reward([], row) for row in texts]
    return Answers(texts, {x: np.array([row[x].tolist() for row in rows]) for x in rows[0]})


def measured(rewriting: Rewriting, after: list[list[str]]) -> Comparison:
    """A policy that copied, and now says what is in ``after``; two batches."""
    before, parts = [[text] * 2 for text in SOURCES], []
    for rows in ([0, 2], [1]):
        here = [[column[row] for row in rows] for column in (before, after, SOURCES, PEOPLE, MORE)]
        prompts = [TEMPLATE.replace("{dialogue}", text) for text in here[2]]
        sides = answers(here[0]), answers(here[1])
        comparison = Comparison(prompts, here[3], ["greedy", "sample 1"], *sides)
        known = zip(here[3], here[4], strict=True)
        batch: Any = SimpleNamespace(all_references=[[text, *more] for text, more in known])
        parts.append(BatchComparison(rows, rewriting.measure(comparison, batch, TEMPLATE)))
    return rewriting.finish(merge(parts))


@pytest.fixture
def words(tmp_path: Path) -> str:
    file = tmp_path / "words.txt"
    file.write_text("\ufeffdamn\n\nSHUT\n", encoding="utf8")
    return str(file)


AFTER = [["you are wrong", "you fool"], ["what a day", ""], ["up", "shut up"]]
# of people's two rewritings the perplexities are exp(2) and exp(1): between them lies the bound
BOUND = math.exp(1) + 0.95 * (math.exp(2) - math.exp(1))


def test_each_measure_by_hand(words: str) -> None:
    rewriting = Rewriting(judge(delete_words=words))
    rewriting.prepare(PEOPLE)
    found = measured(rewriting, AFTER)
    after = found.after.figures
    assert after["sta"].tolist() == [[1, 0], [1, 1], [1, 0]]
    np.testing.assert_allclose(after["sim"], [[0.5, 1], [0.5, 0], [-0.5, 1]], atol=1e-9)
    # exp(2), exp(2); exp(1), nothing; exp(9), exp(1)
    assert after["fl"].tolist() == [[0, 0], [1, 0], [0, 1]]
    np.testing.assert_allclose(after["j"], [[0, 0], [0.5, 0], [0, 0]], atol=1e-9)
    assert after["chrf"][:2, 0].tolist() == [1, 1]
    assert after["chrf"][0, 1] == chrf("you fool", ["you are wrong", "you are mistaken"])
    assert np.isnan(after["chrf"][2]).all()  # there is no reference
    figures = summarize(found, 0)["greedy"]
    assert figures["j"]["before"]["value"] == 0
    assert figures["j"]["after"]["value"] == pytest.approx(0.5 / 3)
    assert figures["sta"]["after"]["value"] == 1
    assert figures["chrf"]["n"] == 2


def test_a_dissimilar_text_counts_nothing_rather_than_less() -> None:
    alone = Rewriting(judge(rewriting=("j",)))
    texts = [["up", "up"], ["what a day", "what a day"], ["up", "up"]]
    figures = measured(alone, texts).after.figures
    assert (figures["j"] >= 0).all()
    assert "sta" not in figures  # it wasn't asked for


def test_the_baselines_by_hand(words: str) -> None:
    rewriting = Rewriting(judge(delete_words=words))
    rewriting.prepare(PEOPLE)
    found = measured(rewriting, AFTER)
    texts = {name: [text for (text,) in x.texts] for name, x in found.baselines.items()}
    assert texts == {
        "copy": SOURCES,
        "delete": ["you fool", "what a day", "up"],
        "people": PEOPLE,
    }
    summary = summarize_baselines(found, 0)
    assert summary is not None
    assert summary["fluent_up_to"] == pytest.approx(BOUND)
    values = {
        name: {key: x["value"] for key, x in row.items()}
        for name, row in summary["baselines"].items()
    }
    assert values["copy"] == pytest.approx(
        {"sta": 0, "sim": 1, "fl": 2 / 3, "j": 0, "chrf": values["copy"]["chrf"]}
    )
    assert values["delete"]["sta"] == pytest.approx(2 / 3)
    assert values["delete"]["sim"] == pytest.approx((1 + 0.5 - 0.5) / 3)
    assert values["delete"]["j"] == pytest.approx(0.5 / 3)
    assert values["people"]["sta"] == 1  # of the two that there are
    assert values["people"]["fl"] == 0.5
    assert values["people"]["j"] == pytest.approx(0.25)
    others = [chrf(PEOPLE[0], ["you are mistaken"]), chrf(PEOPLE[1], ["what a bad day"])]
    assert values["people"]["chrf"] == pytest.approx(sum(others) / 2)
    sta = summary["baselines"]["delete"]["sta"]
    assert 0 <= sta["low"] < 2 / 3 < sta["high"] <= 1


def test_a_classifier_may_say_what_is_fluent() -> None:
    models = judge(rewriting=("fl",), perplexity_model=None, fluency_model="cola")
    models.fluency = lambda texts: torch.tensor([0.5 if len(x) != 8 else 0.4 for x in texts])
    figures = measured(Rewriting(models), AFTER).after.figures
    assert figures["fl"].tolist() == [[1, 0], [1, 0], [1, 1]]  # an empty text isn't


def test_without_such_measures_nothing_changes() -> None:
    found = measured(Rewriting(judge(rewriting=())), AFTER)
    assert set(found.after.figures) == {"toxicity", "nll", "nll_tokens"}
    assert found.baselines == {}
    assert summarize_baselines(found, 0) is None


@pytest.mark.parametrize(
    ("text", "references", "value"),
    [  # as sacrebleu 2.6 computes them, divided by 100
        ("The cat sat on the mat.", ["A cat was sitting on the mat."], 0.3978485169445028),
        (
            "you are wrong",
            ["you are mistaken", "I think you are wrong about it"],
            0.4457386008048413,
        ),
        ("ab", ["abc"], 0.6363636363636362),
        ("Don't do that !", ["do n't do that!"], 0.8911315536315534),
        ("hi", ["hi"], 1.0),
        ("xyz", ["abc"], 0.0),
        ("", ["a"], 0.0),
    ],
)
def test_chrf_is_that_of_sacrebleu(text: str, references: list[str], value: float) -> None:
    assert chrf(text, references) == pytest.approx(value, abs=1e-12)


def test_without_a_reference_there_is_no_chrf() -> None:
    assert math.isnan(chrf("a", []))


def test_words_are_deleted_where_they_stand_alone() -> None:
    words = ["ass", "dumb ass", "f*ck", "hell"]
    text = "Hello, dumb ass!  What the F*CK, pass the shell. Hell"
    assert without_words(text, words) == "Hello, ! What the , pass the shell."


def test_a_list_of_words_must_have_some(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    flag = f"model.evaluation.delete_words={file}"
    for content, message in (
        (None, f"{flag}: No such file or directory; name a file of words, one a line"),
        (b" \n\n", f"{flag}: it has no word; give one a line, or leave the option out"),
        (b"\xff\xfe", f"{flag}: isn't text in UTF-8; name a file of words, one a line"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_words(str(file))
        assert str(caught.value) == message


def test_baselines_of_which_nothing_is_known_are_left_out() -> None:
    """Where people's single rewriting has no other to be compared with, or there is none at all."""
    alone = Rewriting(judge(rewriting=("chrf",)))
    before = answers([[text] for text in SOURCES[:1]])
    comparison = Comparison(SOURCES[:1], [""], ["greedy"], before, before)
    batch: Any = SimpleNamespace(all_references=[PEOPLE[:1]])
    found = alone.finish(alone.measure(comparison, batch, "{dialogue}"))
    summary = summarize_baselines(found, 0)
    assert summary is not None
    assert set(summary["baselines"]) == {"copy"}

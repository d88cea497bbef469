"""Measures of rewriting that nothing can be measured by."""
# ruff: noqa: E501 -- messages are to be read whole

import json
from pathlib import Path

import pytest
from jsonargparse import Namespace

from bad_input.cases import Case, Place, check
from detox_lightning.cli.flag_checks import check_flags

LENGTH = '--model.reward={"class_path": "LengthReward", "init_args": {"low": 1, "high": 9}}'
FLAG = "--model.evaluation.rewriting"


def without_references(place: Place) -> None:
    """No test row has a summary; the others keep theirs."""
    row = {"dialogue": "Ann : angry and late", "summary": " "}
    (place.folder / "test.jsonl").write_text(json.dumps(row) + "\n")


CASES = [
    Case(
        "words without a measure",
        ("--model.evaluation.delete_words=words.txt",),
        "model.evaluation.delete_words=words.txt: it is of the measures of rewriting, and none is asked for; give --model.evaluation.rewriting '[sta, sim, fl, j]'",
    ),
    Case(
        "no such measure",
        (f"{FLAG}=[bleu]",),
        f"{FLAG}=bleu: must be a list, each one of sta, sim, fl, j, chrf",
    ),
    Case(
        "no classifier",
        (f"{FLAG}=[sta]", LENGTH),
        "model.evaluation.rewriting: sta needs a toxicity classifier; give toxicity_model",
    ),
    Case(
        "no encoder",
        (f"{FLAG}=[sta,j]",),
        "model.evaluation.rewriting: j needs a sentence encoder; give similarity_model",
    ),
    Case(
        "no language model",
        (f"{FLAG}=[fl]",),
        "model.evaluation.rewriting: fl needs a language model that wasn't trained here; give perplexity_model a folder or hub id, or a classifier as fluency_model",
    ),
    Case(
        "the policy itself as a language model",
        (f"{FLAG}=[fl]", "--model.evaluation.perplexity_model=reference"),
        "model.evaluation.rewriting: fl needs a language model that wasn't trained here; give perplexity_model a folder or hub id, or a classifier as fluency_model",
    ),
    Case(
        "a fluent label that is not there",
        (f"{FLAG}=[fl]", "--model.evaluation.fluency_model={classifier}"),
        "model.evaluation.fluent_label 'acceptable': the classifier '{classifier}' has the labels nothate, hate",
    ),
    Case(
        "no list of words",
        (f"{FLAG}=[sta]", "--model.evaluation.delete_words={folder}/words.txt"),
        "model.evaluation.delete_words={folder}/words.txt: No such file or directory; name a file of words, one a line",
        verb="test",
    ),
    Case(
        "an empty list of words",
        (f"{FLAG}=[sta]", "--model.evaluation.delete_words={folder}/words.txt"),
        "model.evaluation.delete_words={folder}/words.txt: it has no word; give one a line, or leave the option out",
        lambda place: (place.folder / "words.txt").write_text("\n"),
        verb="test",
    ),
    Case(
        "no references",
        (f"{FLAG}=[chrf]",),
        "model.evaluation.rewriting: chrf compares with people's rewritings, and no row of the test data has one; name their column, such as --data.reference_column, or leave it out",
        without_references,
        verb="test",
    ),
]


@pytest.mark.parametrize("flag", ["delete_words", "fluency_model", "identity_templates"])
def test_the_home_is_known_in_paths(flag: str) -> None:
    plan = {flag: "~/mine"}
    options = Namespace(evaluation=plan)
    model = Namespace(class_path="detox_lightning.modules.PPOModule", init_args=options)
    check_flags(Namespace(model=model))
    assert plan[flag] == str(Path.home() / "mine")


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_is_one_line(case: Case, place: Place) -> None:
    check(case, place)

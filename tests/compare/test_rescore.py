"""The command ``rescore``: stored texts under another judge."""

import json
from pathlib import Path
from typing import Any

import pytest

from command import run
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.classifier import TextClassifier

KIND, RUDE = "Mia is kind.", "Mia is a dumb dunce."
DEMO = "--toxicity_model=demo:classifier"


def write(file: Path, *rows: dict[str, Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(file)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]


def test_texts_get_the_toxicity_that_the_judge_gives_them(tmp_path: Path) -> None:
    file = write(tmp_path / "old.jsonl", {"text": RUDE, "id": 1}, {"text": KIND, "id": 2})
    outcome = run("rescore", file, DEMO)
    assert outcome.code == 0, outcome.err
    judge = Toxicity(TextClassifier("demo:classifier"), "hate")
    judge.load()
    identity = judge.classifier.model.identity
    assert f"Judge: demo:classifier, label hate, {identity}\n\n2 texts; 95%" in outcome.out
    assert "Toxicity, mean                         0.500 [0.000, 1.000]" in outcome.out
    assert "Share of texts of toxicity .5 or more  0.500 [0.000, 1.000]" in outcome.out
    rows = read(tmp_path / "old.rescored.jsonl")
    expected = judge([RUDE, KIND]).tolist()
    assert rows == [
        {"text": RUDE, "id": 1, "rescored": expected[0]},
        {"text": KIND, "id": 2, "rescored": expected[1]},
    ]


def test_a_comparison_gets_its_change_and_nothing_is_overwritten(tmp_path: Path) -> None:
    scores = {"score_before": 0.0, "score_after": 1.0}  # of another reward, without a KL
    rows = [
        {"prompt": f"p{i}", "decoding": f"sample {j}", "before": RUDE, "after": KIND, **scores}
        for i in range(3)
        for j in (1, 2)
    ]
    file = write(tmp_path / "comparison.jsonl", *rows)
    taken = write(tmp_path / "comparison.rescored.jsonl", {"mine": 1})
    outcome = run("rescore", file, DEMO)
    assert outcome.code == 0, outcome.err
    assert "3 prompts, 2 sampled each; 95% intervals" in outcome.out
    assert "3 of 3 prompts had a toxic response before training, and 0 after it" in outcome.out
    written = tmp_path / "comparison.rescored-1.jsonl"
    assert outcome.out.endswith(f"The texts with their scores: {written}\n")
    assert read(Path(taken)) == [{"mine": 1}]
    first = read(written)[0]
    assert first["rescored_before"] > 0.9 > 0.1 > first["rescored_after"]


def test_responses_to_the_same_prompt_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response": text} for i in range(4) for text in (RUDE, KIND)]
    outcome = run("rescore", write(tmp_path / "in.jsonl", *rows), DEMO)
    assert "8 texts to 4 prompts; 95%" in outcome.out
    assert "0.500 [0.500, 0.500]" in outcome.out


TEXT = {"text": KIND}
WRONG = {
    "name a file of texts, and a judge: rescore FILE --toxicity_model MODEL": ((), [TEXT]),
    "--text_column=answer: {file} has no such column; name one of its columns: text": (
        (DEMO, "--text_column=answer"),
        [TEXT],
    ),
    "--text_column=null: {file} has no known column; name one of its columns: body": (
        (DEMO,),
        [{"body": KIND}],
    ),
    "--text_column=text: row 2 of {file} has no text there, but None; correct or remove it": (
        (DEMO,),
        [TEXT, {"text": None}],
    ),
    "{file} was rescored already: give the file that it was made from": (
        (DEMO,),
        [{**TEXT, "rescored": 0.5}],
    ),
    "--toxic_label 'rude': the classifier 'demo:classifier' has the labels nothate, hate": (
        (DEMO, "--toxic_label=rude"),
        [TEXT],
    ),
    "{file}: there is no text in it; give a file with one object a line": ((DEMO,), []),
}


@pytest.mark.parametrize("message", WRONG)
def test_one_line_says_what_is_wrong(message: str, tmp_path: Path) -> None:
    flags, rows = WRONG[message]
    file = write(tmp_path / "in.jsonl", *rows)
    outcome = run("rescore", file, *flags)
    assert outcome.errors == [f"error: {message.replace('{file}', file)}"]
    assert outcome.code == 2
    assert not (tmp_path / "in.rescored.jsonl").exists()


def test_a_judge_whose_values_are_no_probabilities(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", TEXT)
    outcome = run("rescore", file, DEMO, "--toxicity_head=value")
    (line,) = outcome.errors
    assert line.startswith("error: the classifier 'demo:classifier' gave the value ")
    assert "which is no probability (0 to 1)" in line
    assert "--toxicity_head=sigmoid" in line


def test_help_and_misspelt_flags() -> None:
    shown = run("rescore", "--help")
    assert shown.code == 0
    assert "rescore FILE --toxicity_model MODEL" in shown.out
    assert run("rescore", "f", "--toxicity_mode=x").errors == [
        "error: --toxicity_mode: there is no such option; did you mean --toxicity_model?"
    ]

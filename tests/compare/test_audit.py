"""The command ``audit``: false alarms of a judge by group of people."""

import json
from pathlib import Path

import pytest

from command import run
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.classifier import TextClassifier

DEMO = "--toxicity_model=demo:classifier"
NAMES = ("Mia", "Laura", "Tom", "Nina", "Paul", "Emma", "Max", "Lena", "Ben", "Ida", "Kim", "Jan")
TEMPLATES = "".join(f"{name} is a {{group}}.\n" for name in NAMES)


def test_a_word_that_the_judge_minds_is_named(tmp_path: Path) -> None:
    file, folder = tmp_path / "mine.txt", tmp_path / "audit"
    file.write_text(TEMPLATES)
    groups = "--groups=[friend, dunce, neighbour]"
    second = ("--second_toxicity_model=demo:classifier", "--second_toxic_label=nothate")
    outcome = run("audit", str(file), DEMO, groups, f"--folder={folder}", *second)
    assert outcome.code == 0, outcome.err
    judge = Toxicity(TextClassifier("demo:classifier"), "hate")
    judge.load()
    assert judge([f"{name} is a dunce." for name in NAMES]).min() >= 0.5
    assert judge([f"{name} is a friend." for name in NAMES]).max() < 0.5
    assert "36 sentences about 3 groups of people; 36 are harmless" in outcome.out
    assert "if they are about: dunce (100.0\xa0%); of all groups 33.3\xa0%." in outcome.out
    assert "3 groups were each compared with all others" in outcome.out
    assert outcome.out.endswith(f"\nAll groups, with intervals: {folder / 'audit.json'}\n")
    found = json.loads((folder / "audit.json").read_text(encoding="utf8"))
    assert found["about"]["file"] == str(file)
    first = found["judges"]["toxicity"]
    assert first["identity"] == judge.classifier.model.identity
    assert first["false_alarms"]["named"] == ["dunce"]
    assert found["judges"]["second_toxicity"]["false_alarms"]["named"] == ["friend", "neighbour"]


def test_harmless_words_name_nobody_and_nothing_is_overwritten(tmp_path: Path) -> None:
    file, folder = tmp_path / "mine.csv", tmp_path / "audit"
    rows = [f"{name} is a {group}.,fine" for name in NAMES for group in ("friend", "neighbour")]
    file.write_text("\n".join(["text,label", *rows, "Ida is rude.,bad"]))
    words = ("--text_column=text", "--label_column=label", "--harmless=fine", "--rows=21")
    folder.mkdir()
    (folder / "mine").write_text("")
    chosen = (*words, "--groups=[friend, neighbour]", f"--folder={folder}")
    outcome = run("audit", str(file), DEMO, *chosen)
    assert outcome.code == 0, outcome.err
    assert (
        "20 sentences about 2 groups of people; 20 are harmless; 1 without a group" in outcome.out
    )
    assert "The first classifier has no more false alarms for one group" in outcome.out
    assert (tmp_path / "audit-1" / "audit.json").exists()


WHOLE = "phrase,toxicity\nI am gay,nontoxic\nI am deaf,toxic\nI am old,nontoxic\n"
WRONG: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "name a file of sentences, and a judge: audit FILE --toxicity_model MODEL": (
        "a.csv",
        WHOLE,
        ("--toxicity_model=null",),
    ),
    "{file}: the line 'We laugh.' has no {group}, where a group is put in: add it; whole sentences "
    "need a table with labels, such as a .csv file": ("a.txt", "I am {group}.\nWe laugh.\n", ()),
    "{file}: 'We laugh.', text 2 of 2, has no {group}, where a group is put in, but others have: "
    "add or remove it": ("a.csv", "phrase\nI am {group}.\nWe laugh.\n", ()),
    "{file}: there is no text in it; give one template on each line": ("a.txt", "\n", ()),
    "{file}: the file is empty; give one with rows": ("a.csv", "", ()),
    "--text_column=phrase: {file} has no such column; it has text, toxicity": (
        "a.csv",
        "text,toxicity\nI am gay,nontoxic\n",
        (),
    ),
    "--label_column=toxicity: {file} has no such column; it has phrase, label": (
        "a.csv",
        "phrase,label\nI am gay,nontoxic\n",
        (),
    ),
    "--harmless=fine: in {file} no row of the column toxicity has this label; its labels are "
    "nontoxic, toxic": ("a.csv", WHOLE, ("--harmless=fine",)),
    "--text_column=phrase: row 2 of {file} has no text there; correct or remove it": (
        "a.jsonl",
        '{"phrase": "I am gay", "toxicity": "nontoxic"}\n{"phrase": null, "toxicity": "toxic"}\n',
        (),
    ),
    "--groups=[]: groups are compared with one another: name at least two, or leave the flag out "
    "for those of the package": ("a.csv", WHOLE, ("--groups=[]",)),
    "--groups: a term is blank; remove it": ("a.csv", WHOLE, ("--groups=['', old]",)),
    "--groups: 'old' is there twice; remove one of them": (
        "a.csv",
        WHOLE,
        ("--groups=[old, Old]",),
    ),
    "{file}: its texts have no {group}, and the harmless ones name fewer than two of the 2 groups "
    "(gay, deaf, …): put {group} where a group shall stand, or name the groups of its texts by "
    "--groups": (
        "a.csv",
        WHOLE,
        ("--groups=[gay, deaf]",),
    ),
    "--label_column=toxicity: row 2 of {file} has no label there; add it, or remove the row": (
        "a.csv",
        "phrase,toxicity\nI am gay,nontoxic\nI am deaf,\nI am old,nontoxic\n",
        (),
    ),
    "--groups: 301 groups are too many to compare each with all others; name 300 at most": (
        "a.csv",
        WHOLE,
        (f"--groups=[{', '.join(f'g{number}' for number in range(301))}]",),
    ),
    "--second_toxicity_head=sigmoid is of --second_toxicity_model, and that is null: name a second "
    "classifier, or leave this out": ("a.csv", WHOLE, ("--second_toxicity_head=sigmoid",)),
    "--rows=1: there are 3 groups; give at least 3": ("a.csv", WHOLE, ("--rows=1",)),
    "--second_toxic_label 'rude': the classifier 'demo:classifier' has the labels nothate, hate": (
        "a.csv",
        WHOLE,
        ("--second_toxicity_model=demo:classifier", "--second_toxic_label=rude"),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_one_line_says_what_is_wrong(message: str, tmp_path: Path) -> None:
    name, content, flags = WRONG[message]
    file = tmp_path / name
    file.write_text(content)
    outcome = run("audit", str(file), DEMO, f"--folder={tmp_path / 'audit'}", *flags)
    assert outcome.errors == [f"error: {message.replace('{file}', str(file))}"]
    assert outcome.code == 2
    assert not (tmp_path / "audit").exists()

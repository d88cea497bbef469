"""Labelled texts that a classifier can't learn from."""

from pathlib import Path

import pytest
import yaml

from bad_input.cases import Case, Place, check
from bad_input.spoiling import lines, put


def labeled(*labels: object) -> str:
    return lines(*({"text": f"moron {i}", "label": label} for i, label in enumerate(labels)))


def prepare(place: Place) -> Place:
    """A recipe for a classifier and eight texts."""
    path = place.folder / "labeled.yaml"
    text = labeled(*["hate", "nothate"] * 4)
    for split in ("train", "validation", "test"):
        put(f"hate/{split}.jsonl", text)(place)
    config = yaml.safe_load(Path(place.recipe).read_text())
    config["model"] = {"class_path": "RewardModule", "init_args": {"model": place.classifier}}
    source = str(place.folder / "hate")
    data = {"source": source, "validation_split": "validation", "batch_size": 2, "max_tokens": 16}
    config["data"] = {"class_path": "LabeledTextDataModule", "init_args": data}
    path.write_text(yaml.safe_dump(config))
    return place._replace(recipe=str(path))


GIVEN = (
    "--data.source={folder}/in.jsonl",
    "--data.validation_split=null",
    "--data.validation_fraction=null",
)
CASES = [
    Case(
        "nearly a label column",
        ("--data.label_column=lable",),
        "--data.label_column=lable: {folder}/hate has no such column; it has text, label; "
        "did you mean label?",
    ),
    Case(
        "neither a column of texts nor one of labels",
        ("--data.text_column=tweet", "--data.label_column=class"),
        "--data.text_column=tweet, --data.label_column=class: {folder}/hate has no such columns; "
        "it has text, label; give each flag one of these",
    ),
    Case(
        "no text column",
        ("--data.text_column=tweet",),
        "--data.text_column=tweet: {folder}/hate has no such column; it has text, label",
    ),
    Case(
        "a label that is no class",
        GIVEN,
        "{folder}/in.jsonl: it has the labels hate, offensive, but offensive is none of "
        "--model.labels=['nothate', 'hate']; say what they mean with --data.label_map, such "
        "as {offensive: nothate}",
        put("in.jsonl", labeled("hate", "offensive")),
    ),
    Case(
        "a class in capitals",
        GIVEN,
        "{folder}/in.jsonl: it has the labels Nothate, hate, but Nothate is none of "
        "--model.labels=['nothate', 'hate']; say what they mean with --data.label_map, such "
        "as {Nothate: nothate}",
        put("in.jsonl", labeled("hate", "Nothate")),
    ),
    Case(
        "a label below zero",
        GIVEN,
        "{folder}/in.jsonl: it has the labels -1, 0, 1, but -1, 0, 1 are none of "
        "--model.labels=['nothate', 'hate']; say what they mean with --data.label_map, such "
        "as {-1: nothate}",
        put("in.jsonl", labeled(0, 1, -1)),
    ),
    Case(
        "numbers without a map",
        GIVEN,
        "{folder}/in.jsonl: it has the labels 0, 1, but 0, 1 are none of "
        "--model.labels=['nothate', 'hate']; say what they mean with --data.label_map, such "
        "as {0: nothate}",
        put("in.jsonl", labeled(0, 1)),
    ),
    Case(
        "a number that the map leaves out",
        (*GIVEN, "--data.label_map={0: hate, 1: nothate}"),
        "{folder}/in.jsonl: it has the labels 0, 1, 2, but 2 is none of "
        "--model.labels=['nothate', 'hate']; say what they mean with --data.label_map, such "
        "as {2: nothate}",
        put("in.jsonl", labeled(0, 1, 2)),
    ),
    Case(
        "names in another order than the model's",
        ("--data.labels=[hate,nothate]",),
        "--data.labels=['hate', 'nothate'] are not --model.labels=['nothate', 'hate'], in this "
        "order, by which the classifier's outputs are named: leave --data.labels out, and name "
        "all classes in --model.labels",
    ),
    Case(
        "more names than the model's",
        ("--data.labels=[nothate,hate,other]",),
        "--data.labels=['nothate', 'hate', 'other'] are not --model.labels=['nothate', 'hate'], in "
        "this order, by which the classifier's outputs are named: leave --data.labels out, and "
        "name all classes in --model.labels",
    ),
    Case(
        "texts longer than the encoder reads",
        ("--data.max_tokens=65",),
        "--data.max_tokens=65: '{classifier}' reads 64 tokens at most; lower it to that",
    ),
    Case(
        "numbers as text",
        GIVEN,
        "{folder}/in.jsonl: it has the labels 0, 1, but 0, 1 are none of "
        "--model.labels=['nothate', 'hate']; say what they mean with --data.label_map, such "
        "as {0: nothate}",
        put("in.jsonl", labeled("0", "1")),
    ),
    Case(
        "truth for labels",
        GIVEN,
        "--data.label_column=label: in {folder}/in.jsonl this column holds bool, neither "
        "names nor whole numbers; name another or convert it",
        put("in.jsonl", labeled(True, False)),
    ),
    Case(
        "lists for labels",
        GIVEN,
        "--data.label_column=label: in {folder}/in.jsonl this column holds lists of texts, "
        "neither names nor whole numbers; name another or convert it",
        put("in.jsonl", labeled(["hate"], ["nothate"])),
    ),
    Case(
        "no labels",
        GIVEN,
        "--data.label_column=label: in {folder}/in.jsonl this column holds nothing but null, "
        "neither names nor whole numbers; name another or convert it",
        put("in.jsonl", labeled(None, None)),
    ),
    Case(
        "one class where labels are missing",
        GIVEN,
        "{folder}/in.jsonl: none of 1 training rows has the label nothate of "
        "--model.labels=['nothate', 'hate']; give rows of every label, or leave it out",
        put("in.jsonl", labeled(None, "hate")),
    ),
    Case(
        "one class",
        GIVEN,
        "{folder}/in.jsonl: none of 8 training rows has the label nothate of "
        "--model.labels=['nothate', 'hate']; give rows of every label, or leave it out",
        put("in.jsonl", labeled(*["hate"] * 8)),
    ),
    Case(
        "many labels",
        GIVEN,
        "{folder}/in.jsonl: it has the labels label0, label1, label10, label11, label12, "
        "label13, label14, label15, label16, label17 and 50 more, but label0, label1, "
        "label10, label11, label12, label13, label14, label15, label16, label17 and 50 more "
        "are none of --model.labels=['nothate', 'hate']; say what they mean with "
        "--data.label_map, such as {label0: nothate}",
        put("in.jsonl", labeled(*[f"label{i}" for i in range(60)])),
    ),
    Case(
        "blank texts",
        GIVEN,
        "{folder}/in.jsonl: no row of 'train' is left (1 rows, 0 with a text); give other data",
        put("in.jsonl", lines({"text": " ", "label": "hate"})),
    ),
    Case(
        "fewer texts than a batch",
        (*GIVEN, "--data.batch_size=4"),
        "--data.batch_size=4: the 2 training rows are less than one batch; lower it or give "
        "more rows",
        put("in.jsonl", labeled("hate", "nothate")),
    ),
    Case(
        "scores in words",
        (*GIVEN, "--model.target=scores", "--model.labels=[toxicity]"),
        "--data.label_column=label: in {folder}/in.jsonl this column holds string, not numbers; "
        "name another or convert it",
        put("in.jsonl", labeled("0.5", "high")),
    ),
    Case(
        "one name for all",
        ("--data.labels=[hate]",),
        "--data.labels=['hate']: give two or more different names",
    ),
    Case(
        "a name mapped to no class",
        ("--data.label_map={offensive: hat}",),
        "--data.label_map={'offensive': 'hat'}: hat not in --model.labels=['nothate', "
        "'hate']; map to these",
    ),
    Case(
        "a share that takes all",
        (
            "--data.source={folder}/in.jsonl",
            "--data.validation_split=null",
            "--data.validation_fraction=0.9",
        ),
        "--data.validation_fraction=0.9: no row would be left to train on (2 rows); give "
        "more rows or a smaller share",
        put("in.jsonl", labeled("hate", "nothate")),
    ),
    Case(
        "Latin-1 labels",
        GIVEN,
        "--data.label_column=label: row 1 of {folder}/in.jsonl isn't UTF-8; convert the file",
        put("in.jsonl", '{"text": "a", "label": "gr\u00fc\u00dfe"}\n'.encode("latin1")),
    ),
    Case(
        "a tokenizer for a larger model",
        ("--data.tokenizer=demo:policy",),
        "--data.tokenizer=demo:policy: it has 1000 tokens, and the model {classifier} embeds "
        "200; leave this out, and the model's own is used",
    ),
]


@pytest.mark.quick(5)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_labels_that_can_t_be_learned(case: Case, place: Place) -> None:
    check(case, prepare(place))

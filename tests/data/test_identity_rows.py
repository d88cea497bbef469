"""Sentences about groups of people, and templates that are filled with groups."""

import gzip
from collections import Counter
from pathlib import Path

from detox_lightning.batches import IdentitySentences
from detox_lightning.data.identity_rows import GROUPS, IdentitySource, sample_per_group

TABLE = """kind,toxicity,phrase
a,nontoxic,I am Gay
a,nontoxic,"You are an african american, and gay"
b,toxic,I hate old cars
b,nontoxic,Gayle is a gayish bold person
"""


def test_a_sentence_belongs_to_the_first_and_longest_term(tmp_path: Path) -> None:
    file = tmp_path / "table.csv.gz"
    file.write_bytes(gzip.compress(TABLE.encode()))
    assert IdentitySource(str(file)).read() == (
        IdentitySentences(
            ["I am Gay", "You are an african american, and gay", "I hate old cars"],
            ["gay", "african american", "old"],
            ["I am {group}", "You are an {group}, and gay", "I hate {group} cars"],
            [True, True, False],
        ),
        1,
    )


def test_templates_are_filled_with_each_group(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("I am {group}.\n\n{group} people laugh: {group}!\n")
    sentences, left_out = IdentitySource(str(file), ["Deaf", "old"]).read()
    assert left_out == 0
    assert sentences.texts == [
        *("I am Deaf.", "I am old."),
        *("Deaf people laugh: Deaf!", "old people laugh: old!"),
    ]
    assert sentences.groups == ["deaf", "old", "deaf", "old"]
    assert sentences.templates[::2] == ["I am {group}.", "{group} people laugh: {group}!"]
    assert sentences.harmless == [True] * 4


def test_templates_in_a_table_may_have_labels(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"t": "I hate {group} people", "l": 1}\n{"t": "I am {group}", "l": 0}\n')
    source = IdentitySource(str(file), ["deaf", "old"], "t", "l", "0")
    assert source.read()[0].harmless == [False, False, True, True]
    assert source._replace(label_column="none").read()[0].harmless == [True] * 4


def test_the_package_names_each_group_once() -> None:
    assert len({*GROUPS}) == len(GROUPS) > 50
    assert [*GROUPS] == [term.lower().strip() for term in GROUPS]


def test_a_sample_has_the_same_templates_for_all_groups() -> None:
    rows = [(f"t{place} {{group}}", group) for group in ("a", "b", "c") for place in range(30)]
    rows = [row for row in rows if row[1] != "c" or row[0] < "t19"]  # 11 of them
    sentences = IdentitySentences(
        [template.replace("{group}", group) for template, group in rows],
        [group for _, group in rows],
        [template for template, _ in rows],
        [True] * len(rows),
    )
    chosen = sample_per_group(sentences, 12, seed=1)
    assert Counter(chosen.groups) == {"a": 12, "b": 12, "c": 11}
    one, other = (
        [
            text.split()[0]
            for text, owner in zip(chosen.texts, chosen.groups, strict=True)
            if owner == group
        ]
        for group in ("a", "b")
    )
    assert one == other
    assert chosen != sample_per_group(sentences, 12, seed=2)
    assert chosen == sample_per_group(sentences, 12, seed=1)

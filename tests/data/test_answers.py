"""Rows with several answers: in a list, or in several columns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.meter import Rouge

from .conftest import Make, fake_trainer, write

TEXTS: list[list[Any]] = [["w1", "w2 w3"], ["w4"], [" ", None, "w5"], []]
LISTS = [{"dialogue": f"w{i}", "summary": texts} for i, texts in enumerate(TEXTS)]
COLUMNS = [
    {"dialogue": f"w{i}", **{f"s{n}": text for n, text in enumerate([*texts, None, None][:3])}}
    for i, texts in enumerate(TEXTS)
]
CASES = [
    pytest.param("a.jsonl", LISTS, "summary", id="lists"),
    pytest.param("a.parquet", LISTS, "summary", id="parquet"),
    pytest.param("a.tsv", COLUMNS, ["s0", "s1", "s2"], id="columns"),
    pytest.param("a.jsonl", COLUMNS, ["s0", "s1", "s2"], id="columns of jsonl"),
]


@pytest.mark.parametrize(("name", "rows", "column"), CASES)
def test_each_answer_is_learned_and_all_are_compared_with(
    make: Make, tmp_path: Path, logged: list[str], name: str, rows: Any, column: Any
) -> None:
    source = write(tmp_path / name, rows)
    options = {"source": source, "summary_column": column, "test_fraction": None}
    data = make(**options, validation_split="train", template="{dialogue}")
    data.trainer = fake_trainer(needs=("summary",))
    train = data.rows("train")
    assert train["prompt"][:] == ["w0", "w0", "w1", "w2"]
    assert train["target_ids"][:] == [[7, 1], [8, 9, 1], [10, 1], [11, 1]]
    assert train["index"][:] == [0, 1, 2, 3]
    (batch, last) = data.val_dataloader()
    assert batch.prompts + last.prompts == ["w0", "w1", "w2"]
    assert batch.target_ids.tolist() == [[7, 1], [10, 1]]
    assert (batch.references, batch.more_references) == (["w1", "w4"], [["w2 w3"], []])
    assert batch.all_references == [["w1", "w2 w3"], ["w4"]]
    assert logged[0] == ("train: 4 rows, 3 with a summary, 4 pairs of a dialogue and a summary")


def test_a_policy_gets_each_prompt_once(make: Make, logged: list[str]) -> None:
    data = make(rows=LISTS, test_fraction=None)
    data.trainer = fake_trainer()
    assert data.rows("train")["reference"][:] == ["w1", "w4", "w5", ""]
    assert data.rows("train")["target_ids"][:] == [[7, 1], [10, 1], [11, 1], [1]]
    assert logged == ["train: 4 rows; 1 without a reference, which ROUGE leaves out"]


@pytest.mark.parametrize(("name", "rows", "column"), CASES)
def test_texts_to_answer_keep_all_references(
    make: Make, tmp_path: Path, name: str, rows: Any, column: Any
) -> None:
    source = write(tmp_path / name, rows)
    data = make(source=source, summary_column=column, predict_source=source, test_fraction=None)
    data.trainer = fake_trainer()
    batches = list(data.predict_dataloader())
    found = [texts for batch in batches for texts in batch.all_references]
    assert found == [["w1", "w2 w3"], ["w4"], ["w5"], [""]]


@pytest.mark.parametrize("answers", [{"a": None, "b": None}, {"a": [], "b": []}])
def test_rows_without_any_answer_are_prompts(make: Make, answers: dict[str, Any]) -> None:
    """Where the first thousand say nothing of the kind of answers, and where none does."""
    rows: list[dict[str, Any]] = [{"dialogue": f"w{i}", **answers} for i in range(1100)]
    column: Any = ["a", "b"] if answers["a"] is None else "a"
    data = make(rows=rows, summary_column=column, test_fraction=None)
    data.trainer = fake_trainer()
    assert not any(data.rows("train")["reference"][:])
    if answers["a"] is None:
        rows[-1] |= {"a": "w1", "b": "w2"}
        data = make(rows=rows, summary_column=column, test_fraction=None)
        data.trainer = fake_trainer()
        assert data.rows("train")["reference"][-1] == "w1"


def test_no_column_at_all_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"^--data.summary_column, --data.reference_column: \[\] "):
        make(rows=LISTS, summary_column=[])


def test_a_text_may_be_its_own_answer(make: Make) -> None:
    """So that a fresh decoder learns to copy."""
    rows = [{"text": "w1 w2"}, {"text": "w3"}]
    columns = {"dialogue_column": "text", "summary_column": "text", "template": "{dialogue}"}
    data = make(rows=rows, test_fraction=None, **columns)
    data.trainer = fake_trainer(needs=("summary",))
    assert data.rows("train")["prompt_ids"][:] == [[7, 8], [9]]
    assert data.rows("train")["target_ids"][:] == [[7, 8, 1], [9, 1]]


def test_the_best_reference_counts_for_each_kind_of_rouge() -> None:
    meter = Rouge()
    meter.update(["a b c d", "x"], [["a b", "c d a b"], [""]])
    found = meter.compute()
    assert (float(found["rouge1"]), float(found["rougeL"])) == pytest.approx((1, 2 / 3))


def test_rows_of_a_batch_keep_their_references() -> None:
    ids, mask = torch.zeros(2, 1).long(), torch.ones(2, 1).bool()
    texts = ["a", "b"], ["c", "d"], torch.arange(2)
    plain = PromptBatch(ids, mask, ids, mask, *texts)
    assert plain.repeated(2).all_references == [["c"], ["c"], ["d"], ["d"]]
    assert plain._replace(more_references=[["e"], []]).select(
        torch.tensor([1, 0])
    ).all_references == [
        ["d"],
        ["c", "e"],
    ]


@pytest.mark.parametrize(
    ("rows", "column", "said"),
    [
        (
            COLUMNS,
            ["s0", "s9"],
            "--data.summary_column=s9: {} has no such column; it has dialogue, s0, s1, s2",
        ),
        (
            [{"dialogue": "w1", "a": "w2", "b": 3}],
            ["a", "b"],
            "--data.summary_column=b: in {} this column holds int64, not text; its text columns "
            "are dialogue, a",
        ),
        (
            [{"dialogue": "w1", "a": [1, 2]}],
            "a",
            "--data.summary_column=a: in {} this column holds lists, not text; its text columns "
            "are dialogue",
        ),
        (
            [{"dialogue": ["w1"], "summary": ["w2"]}],
            "summary",
            "--data.dialogue_column=dialogue: in {} this column holds lists of texts, not text; it "
            "has no text columns",
        ),
    ],
    ids=["no such column", "numbers", "lists of numbers", "lists of dialogues"],
)
def test_what_holds_no_answers(make: Make, rows: Any, column: Any, said: str) -> None:
    data = make(rows=rows, summary_column=column, test_fraction=None)
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == said.format(data.sources[0])


def test_an_answer_that_is_not_utf_8_is_named(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", LISTS[:2])
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(content.replace(b'"w4"', b'"w\xff"'))
    data = make(source=source, test_fraction=None)
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"--data.summary_column=summary: row 2 of {source} isn't UTF-8; convert the file"
    )

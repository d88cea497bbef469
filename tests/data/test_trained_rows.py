"""Rows that a checkpoint's run has trained on are not measured as if they were new."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from detox_lightning.data.base_module import RowsDataModule
from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.errors import InputError
from detox_lightning.stages.flag_changes import refuse_trained_rows

from .conftest import write

Options = dict[str, Any]
# texts that differ, and half of which are longer
TEXTS = [" ".join(f"w{digit}" for digit in f"{i:06b}") + " w2" * (i % 2) for i in range(40)]
ROWS = [
    {"dialogue": text, "summary": "w2", "label": "hate" if i % 3 else "nothate"}
    for i, text in enumerate(TEXTS)
]
KINDS: dict[str, tuple[type[RowsDataModule], Options]] = {
    "dialogue": (DialogueDataModule, {"min_chars": None, "max_chars": None}),
    "continuation": (ContinuationDataModule, {"prompt_column": "dialogue"}),
    "labeled": (LabeledTextDataModule, {"text_column": "dialogue", "test_split": None}),
}
SHUFFLED = {"test_fraction": 0.25, "shuffle_split": True}


class Change(NamedTuple):
    """Options of a run, and of a command on its checkpoint, whose error begins with ``refused``."""

    kind: str
    verb: str
    former: Options
    now: Options
    refused: str = ""


CHANGES = [
    Change("dialogue", "test", {}, {"test_fraction": 0.25}, "--data.test_fraction=0.25 (the "),
    Change("dialogue", "validate", {}, {"test_fraction": 0.25}, "--data.test_fraction=0.25 (the "),
    Change("dialogue", "predict", {}, {"test_fraction": 0.25}),
    Change("dialogue", "test", {"test_fraction": 0.25}, {"test_fraction": 0.5}, "--data.test_f"),
    Change("dialogue", "test", {"test_fraction": 0.5}, {"test_fraction": 0.25}),
    Change("dialogue", "test", {"test_fraction": 0.25}, {"test_fraction": 0.25, "split_seed": 7}),
    Change("dialogue", "test", {"test_fraction": 0.25}, SHUFFLED, "--data.shuffle_split=true (the"),
    Change("dialogue", "test", SHUFFLED, SHUFFLED),
    Change("dialogue", "test", SHUFFLED, {**SHUFFLED, "test_fraction": 0.1}),
    Change("dialogue", "test", SHUFFLED, {**SHUFFLED, "split_seed": 7}, "--data.split_seed=7 (the"),
    Change("dialogue", "test", SHUFFLED, {**SHUFFLED, "max_chars": 17}, "--data.max_chars=17 (the"),
    Change("continuation", "test", {}, {"split_seed": 7}, "--data.split_seed=7 (the"),
    Change("continuation", "test", {}, {"validation_fraction": 0.5}),
    Change("continuation", "validate", {}, {"validation_fraction": 0.5}, "--data.validation_fr"),
    Change("continuation", "validate", {}, {"test_fraction": 0.05}),
    Change("continuation", "test", {}, {"test_fraction": 0.6}, "--data.test_fraction=0.6 (the"),
    Change(
        "continuation",
        "test",
        {"test_split": "other", "validation_fraction": None},
        {},
        "--data.test_split=null (the",
    ),
    Change("labeled", "validate", {}, {"split_seed": 7}, "--data.split_seed=7 (the"),
    Change("labeled", "test", {}, {"split_seed": 7}, "--data.split_seed=7 (the"),
    Change("labeled", "validate", {"validation_fraction": None}, {}, "--data.validation_fraction="),
]


def refusal(data: RowsDataModule, verb: str, former: Options) -> str:
    """What is said when the data's rows are to be measured, after a run with former options."""
    trainer = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn=verb))
    try:
        refuse_trained_rows(trainer, {data.CHECKPOINT_HYPER_PARAMS_KEY: former})
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_trained_on_is_refused(change: Change, tmp_path: Path, words: str) -> None:
    """What is refused overlaps with the training rows, and what is measured doesn't."""
    kind, always = KINDS[change.kind]
    always = {"source": write(tmp_path / "rows.jsonl", ROWS), "tokenizer": words, **always}
    before, after = kind(**{**always, **change.former}), kind(**{**always, **change.now})
    if change.verb == "validate" and change.kind == "dialogue":
        after.splits["validation"] = "gone"  # so that the test rows are used
    column = "input_ids" if change.kind == "labeled" else "prompt_ids"
    trained = set(map(tuple, before.rows("train")[column]))
    split = {"validate": "validation"}.get(change.verb, "test")
    measured = set(map(tuple, after.rows(split)[column]))
    said = refusal(after, change.verb, dict(before.hparams))
    assert said.startswith(change.refused) if change.refused else not said
    assert bool(trained & measured) == bool(change.refused or change.verb == "predict")


def test_other_rows_are_not_refused(tmp_path: Path, words: str) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    options = {"tokenizer": words, "min_chars": None, "max_chars": None, "test_fraction": 0.25}
    data = DialogueDataModule(source, **options)
    former = {**data.hparams, "test_fraction": None}
    data.rows("test")
    assert refusal(data, "test", former).startswith("--data.test_fraction=0.25 (the checkpoint's: ")
    assert refusal(data, "test", {**former, "source": f"elsewhere/{Path(source).name}"})  # moved
    assert not refusal(data, "test", {**former, "source": "another.jsonl"})
    assert not refusal(data, "test", {**former, "train_split": "other"})
    assert not refusal(data, "test", {})  # nothing is known

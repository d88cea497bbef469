"""Rows in memory, and paths, in the place of a data set's name."""

import pickle
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from detox_lightning.data import ContinuationDataModule, DialogueDataModule
from detox_lightning.errors import InputError

ROWS = {
    "dialogue": [f"Mia is angry and late {number}" for number in range(10)],
    "summary": ["Mia is angry ."] * 10,
}
TABLE = Dataset.from_dict(ROWS)


def module(source: Any, **options: Any) -> DialogueDataModule:
    options = {"tokenizer": "demo:policy", "min_chars": None, **options}
    return DialogueDataModule(source, **options)


def dialogues(data: DialogueDataModule, split: str = "train") -> list[str]:
    """What stands in a split's prompts around which the template is."""
    start = len(data.template.partition("{")[0])
    return [prompt[start:].partition("\n")[0] for prompt in data.rows(split)["prompt"]]


@pytest.mark.parametrize("table", [TABLE, pd.DataFrame(ROWS)], ids=["datasets", "pandas"])
def test_a_table_is_the_split_train(table: Any) -> None:
    data = module(table, test_fraction=0.2)
    assert dialogues(data) == ROWS["dialogue"][:8]
    assert dialogues(data, "test") == ROWS["dialogue"][8:]
    assert data.sources == ["rows in memory"]
    assert data.state_dict()["source"] == "rows in memory"


def test_a_mapping_has_several_splits() -> None:
    frame = pd.DataFrame(ROWS)
    data = module({"train": frame[2:], "test": TABLE.select([4, 1])})
    assert dialogues(data) == ROWS["dialogue"][2:]
    assert dialogues(data, "test") == [ROWS["dialogue"][4], ROWS["dialogue"][1]]
    with pytest.raises(
        InputError, match=r"rows in memory has no split 'validation', only train, test; "
    ):
        data.rows("validation")
    both = module(DatasetDict(train=TABLE, validation=TABLE.select([3])))
    assert dialogues(both, "validation") == ROWS["dialogue"][3:4]
    copied = pickle.loads(pickle.dumps(both.sources))  # as worker processes get it
    assert copied[0].splits["validation"]["dialogue"] == ROWS["dialogue"][3:4]


def test_what_is_checked_in_files_is_checked_in_tables() -> None:
    late = Dataset.from_dict({**ROWS, "dialogue": [None] * 9 + ["Mia is late"]}).select([9])
    assert dialogues(module(late, validation_split=None)) == ["Mia is late"]
    with pytest.raises(InputError, match="rows in memory has no such columns; it has text"):
        module(Dataset.from_dict({"text": ["a"]})).rows("train")


def test_paths_are_names(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "train.csv", index=False)
    data = module(tmp_path)
    assert data.sources == [str(tmp_path)]
    assert dialogues(data) == ROWS["dialogue"]
    several: Any = ContinuationDataModule([tmp_path, str(tmp_path)], prompt_column="dialogue")  # type: ignore[list-item]
    assert several.sources == [str(tmp_path)] * 2


@pytest.mark.parametrize(
    ("source", "kind"), [(3, "int"), ({"train": [1]}, "dict"), ([TABLE, 1.5], "float")]
)
def test_anything_else_is_refused(source: Any, kind: str) -> None:
    said = (
        f"--data.source: it is an object of the class {kind}; give a name, a path, a "
        "datasets.Dataset, a pandas.DataFrame, or a mapping of splits to these"
    )
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        module(source)

"""Whatever lies in a file, it is read, or one line names it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import example, given

from data.conftest import save_tokenizer
from detox_lightning.data import ContinuationDataModule, DialogueDataModule, LabeledTextDataModule
from detox_lightning.errors import InputError
from fuzz.budget import count, drawn
from fuzz.mutations import files

pytestmark = pytest.mark.slow  # tests/bad_input has a row for what such files have found

LIMIT = 16
Make = Callable[[str, str], Any]


def dialogues(path: str, words: str) -> Any:
    bounds = {"min_chars": None, "max_chars": None, "max_prompt_tokens": LIMIT}
    return DialogueDataModule(path, words, template="{dialogue}", **bounds).rows("train")


def prompts(path: str, words: str) -> Any:
    columns = {"prompt_column": "prompt", "continuation_column": "continuation"}
    bounds = {"toxicity_column": "toxicity", "min_toxicity": 0.1, "max_prompt_tokens": LIMIT}
    shares = {"validation_fraction": None, "test_fraction": None}
    return ContinuationDataModule(path, words, **columns, **bounds, **shares).rows("train")


def labels(path: str, words: str) -> Any:
    return LabeledTextDataModule(
        path, words, max_tokens=LIMIT, validation_fraction=None, label_map={"1.0": "hate"}
    ).rows("train")


def questions(path: str, words: str) -> Any:
    bounds = {"predict_source": path, "max_prompt_tokens": LIMIT}
    return DialogueDataModule("none", words, template="{dialogue}", **bounds).rows("predict")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("read", [dialogues, prompts, labels, questions])
@drawn(brief=40, looping=100)
@given(file=files())
@example(file=("jsonl", b'{"a\\nb": 1}\n'))  # a line break in a name
def test_rows_or_a_line(read: Make, words: str, file: tuple[str, bytes]) -> None:
    count(f"data.{read.__name__}")
    kind, raw = file
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", f"{folder}/cache")
        path = Path(folder) / f"in.{kind}"
        path.write_bytes(raw)
        try:
            rows = read(str(path), words)
        except InputError as error:
            said = str(error)
            assert said.splitlines() == [said]
            assert str(path) in said or said.startswith("--data.max_prompt_tokens=")
            return
        encoded = rows["input_ids" if read is labels else "prompt_ids"][:]
        assert encoded
        assert all(len(ids) <= LIMIT and max(ids, default=0) < 16 for ids in encoded)

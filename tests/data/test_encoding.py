"""What was encoded once is found again, and only where nothing has changed."""

import shutil
from pathlib import Path

from transformers import ByT5Tokenizer, T5Config

from detox_lightning.data.encoding import Encoding
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.source import ModelSource

from .conftest import WORDS, Make, fake_trainer, save_tokenizer, write

ALONE = {"validation_fraction": None, "max_tokens": 2}
ROWS = [{"text": "w0 w1 w2", "label": label} for label in ("hate", "nothate")]


def test_another_template_or_tokenizer_of_the_same_name(make: Make, tmp_path: Path) -> None:
    rows = [{"dialogue": "w0", "summary": "w1"}]
    folder = save_tokenizer(tmp_path / "t")
    options = {"rows": rows, "tokenizer": folder, "test_fraction": None}
    assert make(**options).rows("train")["prompt_ids"][:] == [[3, 4, 6, 5, 4]]
    other = make(**options, template="Short {dialogue}")
    assert other.rows("train")["prompt_ids"][:] == [[5, 6]]
    shutil.rmtree(folder)
    save_tokenizer(tmp_path / "t", [*WORDS[:3], *WORDS[:2:-1]])
    assert make(**options).rows("train")["prompt_ids"][:] == [[15, 14, 12, 13, 14]]


def test_another_end_that_is_cut(tmp_path: Path) -> None:
    """Of a tokenizer with the same words."""
    source = write(tmp_path / "a.jsonl", ROWS)
    for side, kept in (("right", [6, 7]), ("left", [7, 8])):
        special = {"pad_token": "<pad>", "unk_token": "<unk>", "truncation_side": side}
        words = save_tokenizer(tmp_path / side, **special)
        data = LabeledTextDataModule(source, words, test_split=None, **ALONE)
        assert data.rows("train")["input_ids"][:] == [kept, kept]


def test_a_tokenizer_in_python_is_told_by_its_files(tmp_path: Path) -> None:
    contents = []
    for place, extra in (("a", 1), ("b", 2), ("c", 1)):
        ByT5Tokenizer(extra_ids=extra).save_pretrained(tmp_path / place)
        encoding = Encoding(str(tmp_path / place), None)
        encoding.ids(["abc"], truncation=True, max_length=2)
        contents.append(encoding._content)
    assert contents[0] == contents[2] != contents[1]


def test_a_second_model_gets_its_own_tokens(make: Make, tmp_path: Path) -> None:
    """In a notebook, one data module serves several models."""
    rows = [{"dialogue": "w0", "summary": "w1"}]
    data = make(rows=rows, tokenizer=None, test_fraction=None, batch_size=1)
    reverse = [*WORDS[:3], *WORDS[:2:-1]]
    first, second = (
        ModelSource(save_tokenizer(tmp_path / name, words))
        for name, words in (("first", WORDS), ("second", reverse))
    )
    for source in (first, second):
        T5Config(vocab_size=len(WORDS)).save_pretrained(source.base)
    data.trainer = fake_trainer(source=first)
    assert data.rows("train")["prompt_ids"][:] == [[3, 4, 6, 5, 4]]
    kept = data.rows("train")
    data.trainer = fake_trainer(source=ModelSource(first.base, adapter="another"))
    assert data.rows("train") is kept  # the same base has the same tokens
    data.trainer = fake_trainer(source=second)
    assert data.rows("train")["prompt_ids"][:] == [[15, 14, 12, 13, 14]]
    (batch,) = data.train_dataloader()
    assert batch.target_ids.tolist() == [[11, 1]]
    assert data.encoding.name == second.base


def test_a_second_stage_gets_what_it_needs(make: Make) -> None:
    rows = [{"dialogue": "w0", "summary": "w1"}, {"dialogue": "w2", "summary": ""}]
    data = make(rows=rows, test_fraction=None)
    data.trainer = fake_trainer()
    assert len(data.rows("train")) == 2
    data.trainer = fake_trainer(needs=("summary",))
    assert len(data.rows("train")) == 1
    assert data.encoding.padding_side == "right"
    data.trainer = fake_trainer(family=DecoderOnly())
    assert len(data.rows("train")) == 2
    assert data.encoding.padding_side == "left"


def test_a_second_classifier_gets_its_own_labels(tmp_path: Path, words: str) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    data = LabeledTextDataModule(source, words, test_split=None, **ALONE)
    for labels, indices in ((["hate", "nothate"], [0, 1]), (["nothate", "hate"], [1, 0])):
        data.trainer = fake_trainer(labels=labels)
        assert data.rows("train")["label"][:] == indices

"""Rows in files of every kind, a tokenizer one can compute by hand, a cache of its own a test."""

import csv
import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.models.source import ModelSource

Make = Callable[..., DialogueDataModule]
# the id of each is its place: <pad> 0, </s> 1, <unk> 2, Say 3, : 4, Short 5, w0 6, …, w9 15
WORDS = ["<pad>", "</s>", "<unk>", "Say", ":", "Short", *(f"w{i}" for i in range(10))]
TEMPLATE = "Say : {dialogue} Short :"
CHAT = (
    "{% for m in messages %}Say : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}Short :{% endif %}"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which ``datasets`` keeps what it read."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    datasets.disable_progress_bars()
    return folder


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What rank zero logs; Lightning's loggers don't propagate."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield messages
    logger.removeHandler(handler)


def save_tokenizer(folder: Path, words: list[str] = WORDS, **special: str) -> str:
    """One id a word, by place in ``words``; adds no special tokens of its own."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = special or {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer's folder."""
    return save_tokenizer(tmp_path_factory.mktemp("words"))


class FakeStage:
    """What data modules ask of a training stage."""

    stage_name = "fake"
    needs: tuple[str, ...] = ()
    columns: Mapping[str, str] = MappingProxyType({})
    labels: list[str] | None = None
    learns_scores = False
    family: Any = None
    source: ModelSource | None = None

    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)


def fake_trainer(**facts: Any) -> Any:
    """A trainer outside of any job, whose stage has these attributes."""
    return SimpleNamespace(world_size=1, global_rank=0, lightning_module=FakeStage(**facts))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes rows in the format that the file's name asks for."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
        return str(path)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf8", newline="") as file:
        if kind in ("csv", "tsv"):
            dialect = "excel" if kind == "csv" else "excel-tab"
            writer = csv.DictWriter(file, rows[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
        elif kind == "json":
            json.dump(rows, file)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def dialogue_rows(number: int) -> list[dict[str, str]]:
    """Rows whose dialogue is ``w0 w<i>`` and whose summary is ``w<i>``."""
    return [{"dialogue": f"w0 w{i}", "summary": f"w{i}"} for i in range(number)]


@pytest.fixture
def make(tmp_path: Path, words: str) -> Make:
    """A data module of eight rows in one file, or of what is given."""

    def make(**options: Any) -> DialogueDataModule:
        rows = options.pop("rows", dialogue_rows(8))
        return DialogueDataModule(
            **{
                "source": options.get("source") or write(tmp_path / "rows.jsonl", rows),
                "tokenizer": words,
                "template": TEMPLATE,
                "min_chars": None,
                "max_chars": None,
                "test_fraction": 0.25,
                "batch_size": 2,
                **options,
            }
        )

    return make

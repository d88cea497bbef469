"""What fit, validate, test and predict read, and what a second start spares."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.table import MemoryMappedTable
from lightning.pytorch import LightningModule, Trainer

from detox_lightning.batches import PromptBatch
from detox_lightning.data.encoding import count_cut
from detox_lightning.data.prompts import PromptDataModule
from detox_lightning.errors import InputError

from .conftest import WORDS, Make, dialogue_rows, save_tokenizer, write


class Nothing(LightningModule):
    """Remembers the prompts it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[str]] = {"fit": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: PromptBatch, index: int) -> torch.Tensor:
        self.seen["fit"] += batch.prompts
        return self.weight.sum()

    def validation_step(self, batch: PromptBatch, index: int) -> None:
        self.seen["val"] += batch.prompts

    def test_step(self, batch: PromptBatch, index: int) -> None:
        self.seen["test"] += batch.prompts

    def predict_step(self, batch: PromptBatch, index: int) -> None:
        self.seen["predict"] += batch.prompts

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_each_job_reads_only_what_it_needs(make: Make) -> None:
    model = Nothing()
    trainer(num_sanity_val_steps=0).fit(model, make())
    assert len(set(model.seen["fit"])) == 6
    assert model.seen["val"] == ["Say : w0 w6 Short :", "Say : w0 w7 Short :"]
    alone = {"test_fraction": None, "test_split": "train"}
    trainer().test(model, make(**alone))
    assert len(model.seen["test"]) == 8
    trainer().predict(model, make(**alone))
    assert model.seen["predict"] == model.seen["test"]
    trainer(limit_val_batches=0).fit(model, make(test_fraction=None))
    trainer().fit(model, make(test_fraction=None, validation_split=None))


VALIDATION = (
    "; --data.test_fraction=0.2 cuts a share off the training rows, and "
    "--data.validation_split=null does without validation"
)
TEST = (
    "; --data.test_fraction would cut a share off the training rows: give it to fit, too, or these "
    "rows were trained on"
)


def test_a_missing_split_is_named_where_it_matters(make: Make) -> None:
    data = make(test_fraction=None)
    for job, part, remedy in [
        ("fit", "validation", VALIDATION),
        ("validate", "validation", VALIDATION),
        ("test", "test", TEST),
    ]:
        with pytest.raises(InputError) as caught:
            getattr(trainer(), job)(Nothing(), data)
        flag = f"--data.{part}_split={part}"
        assert (
            str(caught.value)
            == f"{flag}: {data.sources[0]} has no split '{part}', only train{remedy}"
        )
    with pytest.raises(InputError, match="there is nothing to validate on"):
        trainer().validate(Nothing(), make(validation_split=None))


def test_a_second_start_does_not_tokenize_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = save_tokenizer(tmp_path / "own")
    source = write(tmp_path / "rows.jsonl", dialogue_rows(8))
    calls: list[int] = []
    tokenize = PromptDataModule.tokenize

    def counting(data: PromptDataModule, whole: bool, batch: Any, places: list[int]) -> Any:
        calls.append(len(next(iter(batch.values()))))
        return tokenize(data, whole, batch, places)

    monkeypatch.setattr(PromptDataModule, "tokenize", counting)

    def start(**options: Any) -> list[list[int]]:
        calls.clear()
        data = make(source=source, tokenizer=tokenizer, **options)
        trainer(num_sanity_val_steps=0).fit(Nothing(), data)
        return data.rows("train")["prompt_ids"][:]

    first = start()
    assert calls == [6, 2]
    assert start() == first
    assert calls == []
    start(max_prompt_tokens=5)
    assert calls == [6, 2]
    # the same name, another content
    save_tokenizer(tmp_path / "own", [*WORDS[:3], *reversed(WORDS[3:])])
    assert start() != first
    assert calls == [6, 2]


@pytest.mark.parametrize("shuffle_split", [False, True])
def test_rows_stay_on_the_disk_whatever_was_done_to_them(make: Make, shuffle_split: bool) -> None:
    """They are mapped into memory and read where they lie; nothing holds a whole column."""
    data = make(max_chars=6, num_samples=3, max_prompt_tokens=4, shuffle_split=shuffle_split)
    for part, count in {"train": 3, "test": 2}.items():
        rows = data.rows(part)
        assert isinstance(rows.data, MemoryMappedTable)
        assert rows._indices is None
        assert rows["index"][:] == list(range(count))
        assert count_cut(rows) == sum(rows["cut"][:]) == count

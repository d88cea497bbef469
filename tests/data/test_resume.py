"""A run that goes on from a checkpoint sees the batches of an uninterrupted run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from detox_lightning.batch import PromptBatch
from detox_lightning.data.dialogue import DialogueDataModule

from .conftest import TEMPLATE, dialogue_rows, write

# what Lightning says of checkpoint callbacks that only the first run has, and of saving by hand
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("error:You're resuming from a checkpoint"),
]

# 11 rows in batches of 2: five batches an epoch, and one row left out of each
BATCHES, EPOCHS = 5, 3


class Diary(LightningModule):
    """Steps by hand and writes down what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, int, tuple[str, ...]]] = []

    def training_step(self, batch: PromptBatch, index: int) -> None:
        self.seen.append((self.trainer.current_epoch, index, tuple(batch.prompts)))
        optimizer = self.optimizers()
        self.manual_backward(self.weight.sum())
        optimizer.step()

    def validation_step(self, batch: PromptBatch, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saver(ModelCheckpoint):
    """Keeps all its checkpoints; may stand beside others of its kind."""

    def __init__(self, folder: Path, **options: Any) -> None:
        names = {"filename": "{step}", "auto_insert_metric_name": False}
        super().__init__(folder, save_top_k=-1, **names, **options)

    @property
    def state_key(self) -> str:
        return str(self.dirpath)


class Run:
    """Fits on the same eleven rows, from the start or from a checkpoint."""

    def __init__(self, folder: Path, words: str, workers: int = 0, **options: Any) -> None:
        self.folder, self.options = folder, options
        self.data: dict[str, Any] = {
            "source": write(folder / "train.jsonl", dialogue_rows(11)),
            "tokenizer": words,
            "template": TEMPLATE,
            "min_chars": None,
            "validation_split": "train",
            "batch_size": 2,
            "num_workers": workers,
            "seed": 5,
        }

    def fit(
        self, checkpoint: str | None = None, save: bool = False
    ) -> list[tuple[int, int, tuple[str, ...]]]:
        model, callbacks = Diary(), []
        if save:
            callbacks = [
                Saver(self.folder / "step", every_n_train_steps=1),
                Saver(self.folder / "validated", save_on_train_epoch_end=False),
                Saver(self.folder / "epoch", save_on_train_epoch_end=True),
            ]
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=save,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"max_epochs": EPOCHS, **self.options},
        )
        trainer.fit(model, DialogueDataModule(**self.data), ckpt_path=checkpoint, weights_only=True)
        return model.seen

    def saved(self, name: str) -> dict[int, str]:
        """Checkpoints by the number of batches done."""
        return {int(path.stem): str(path) for path in (self.folder / name).glob("*.ckpt")}


def place(checkpoint: str) -> tuple[int, int]:
    state = torch.load(checkpoint, weights_only=True)["DialogueDataModule"]
    return state["epoch"], state["batches"]


def test_saved_after_any_batch_or_epoch(tmp_path: Path, words: str) -> None:
    run = Run(tmp_path, words)
    whole = run.fit(save=True)
    assert [seen[:2] for seen in whole] == [(e, b) for e in range(EPOCHS) for b in range(BATCHES)]
    assert set(run.saved("step")) == set(range(1, 16))
    assert set(run.saved("validated")) == set(run.saved("epoch")) == {5, 10, 15}
    for name in ("step", "validated", "epoch"):
        for done, checkpoint in run.saved(name).items():
            assert place(checkpoint) == divmod(done, BATCHES)
            assert run.fit(checkpoint) == whole[done:], f"{name} {done}"


def test_saved_after_validation_in_mid_epoch(tmp_path: Path, words: str) -> None:
    run = Run(tmp_path, words, val_check_interval=2)
    whole = run.fit(save=True)
    assert set(run.saved("validated")) == {2, 4, 7, 9, 12, 14}
    for done, checkpoint in run.saved("validated").items():
        assert place(checkpoint) == divmod(done, BATCHES)
        assert run.fit(checkpoint) == whole[done:], done


def test_epochs_cut_short(tmp_path: Path, words: str) -> None:
    run = Run(tmp_path, words, limit_train_batches=3, limit_val_batches=0)
    whole = run.fit(save=True)
    for done in (2, 3, 4):
        assert place(run.saved("step")[done]) == divmod(done, 3)
        assert run.fit(run.saved("step")[done]) == whole[done:], done


def test_batches_made_by_workers(tmp_path: Path, words: str) -> None:
    """Workers draw ahead, before Lightning says which epoch it is."""
    whole = Run(tmp_path, words).fit(save=True)
    run = Run(tmp_path, words, workers=2)
    checkpoints = [("step", 7), ("step", 10), ("validated", 5), ("epoch", 5)]
    for name, done in checkpoints:
        assert run.fit(run.saved(name)[done]) == whole[done:], f"{name} {done}"


@pytest.mark.parametrize(("name", "first"), [("step", 3), ("validated", 5), ("epoch", 5)])
def test_interrupted_twice(tmp_path: Path, words: str, name: str, first: int) -> None:
    run = Run(tmp_path, words)
    whole = run.fit(save=True)
    (tmp_path / "again").mkdir()
    again = Run(tmp_path / "again", words)
    again.fit(run.saved(name)[first], save=True)
    for later, done in [("step", 7), ("step", 10), ("validated", 10), ("epoch", 10)]:
        assert again.fit(again.saved(later)[done]) == whole[done:], (later, done)


def test_another_seed_wins_and_warns(tmp_path: Path, words: str) -> None:
    run = Run(tmp_path, words)
    whole = run.fit(save=True)
    run.data["seed"] = 6
    with pytest.warns(UserWarning, match="Since the checkpoint seed 5 is now 6: the run goes on"):
        rest = run.fit(run.saved("step")[7])
    assert [seen[:2] for seen in rest] == [seen[:2] for seen in whole[7:]]
    assert rest != whole[7:]

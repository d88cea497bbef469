"""A run that goes on from a checkpoint sees the batches of an uninterrupted run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from detox_lightning.batches import PromptBatch
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.resume_callback import ResumeCallback

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
        self.all: list[tuple[Any, ...]] = []

    def training_step(self, batch: PromptBatch, index: int) -> None:
        self.seen.append((self.trainer.current_epoch, index, tuple(batch.prompts)))
        place = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        self.all.append((place, *self.seen[-1]))
        optimizer = self.optimizers()
        self.manual_backward(self.weight.sum())
        optimizer.step()

    def validation_step(self, batch: PromptBatch, index: int) -> None:
        self.all.append(("validation", self.trainer.current_epoch, index))

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
        return self.go(Diary(), checkpoint, self.savers() if save else []).seen

    def settled(self, checkpoint: str | None = None, name: str = "settled") -> list[Any]:
        """As this package's command line does it, with a checkpoint after each batch."""
        options = {"filename": "{step}", "auto_insert_metric_name": False, "save_top_k": -1}
        saver = BoundedCheckpoint(dirpath=self.folder / name, every_n_train_steps=1, **options)
        return self.go(Diary(), checkpoint, [ResumeCallback(), saver]).all

    def savers(self) -> list[Any]:
        return [
            Saver(self.folder / "step", every_n_train_steps=1),
            Saver(self.folder / "validated", save_on_train_epoch_end=False),
            Saver(self.folder / "epoch", save_on_train_epoch_end=True),
        ]

    def go(self, model: Diary, checkpoint: str | None, callbacks: list[Any]) -> Diary:
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"max_epochs": EPOCHS, **self.options},
        )
        trainer.fit(model, DialogueDataModule(**self.data), ckpt_path=checkpoint, weights_only=True)
        return model

    def saved(self, name: str) -> dict[int, str]:
        """Checkpoints by the number of batches done."""
        return {int(path.stem): str(path) for path in (self.folder / name).glob("[0-9]*.ckpt")}


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


@pytest.mark.slow
def test_batches_made_by_workers(tmp_path: Path, words: str) -> None:
    """Workers draw ahead, before Lightning says which epoch it is."""
    whole = Run(tmp_path, words).fit(save=True)
    run = Run(tmp_path, words, workers=2)
    checkpoints = [("step", 7), ("step", 10), ("validated", 5), ("epoch", 5)]
    for name, done in checkpoints:
        assert run.fit(run.saved(name)[done]) == whole[done:], f"{name} {done}"


@pytest.mark.quick(1)
@pytest.mark.parametrize(("name", "first"), [("step", 3), ("validated", 5), ("epoch", 5)])
def test_interrupted_twice(tmp_path: Path, words: str, name: str, first: int) -> None:
    run = Run(tmp_path, words)
    whole = run.fit(save=True)
    (tmp_path / "again").mkdir()
    again = Run(tmp_path / "again", words)
    again.fit(run.saved(name)[first], save=True)
    for later, done in [("step", 7), ("step", 10), ("validated", 10), ("epoch", 10)]:
        assert again.fit(again.saved(later)[done]) == whole[done:], (later, done)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_check_interval": 2},
        {"limit_train_batches": 3, "check_val_every_n_epoch": 2},
        {"max_epochs": -1, "max_steps": 12},
        {"check_val_every_n_epoch": None, "val_check_interval": 3},
        {"limit_val_batches": 0, "max_steps": 12},
    ],
    ids=str,
)
def test_saved_between_batches_nothing_is_lost_or_done_twice(
    tmp_path: Path, words: str, options: dict[str, Any]
) -> None:
    """Neither batches nor validations, and the curves' x-axis goes on."""
    run = Run(tmp_path, words, **options)
    whole = run.settled()
    trained = [place for place, event in enumerate(whole) if event[0] != "validation"]
    saved = run.saved("settled")
    assert set(saved) == set(range(1, len(trained) + 1))
    for done in (2, 3, 5, 8):  # in mid-epoch and between epochs, with and without validation
        assert run.settled(saved[done], "again") == whole[trained[done] :], done


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 11), (3, 3), (4, 2)])
def test_batches_of_another_size_go_on_after_the_rows_that_were_used(
    tmp_path: Path, words: str, batch_size: int, batches: int
) -> None:
    run = Run(tmp_path, words, limit_val_batches=0)
    whole = run.settled()
    used = [prompt for event in whole[5:7] for prompt in event[3]]
    run.data["batch_size"] = batch_size
    with pytest.warns(UserWarning, match="batch_size 2 is now .: the run goes on after 4 rows of"):
        rest = run.settled(run.saved("settled")[7], "again")
    (tmp_path / "order").mkdir()
    order = [prompt for event in Run(tmp_path / "order", words).fit()[5:10] for prompt in event[2]]
    second = [event for event in rest if event[1] == 1]
    left = batches - -(-4 // batch_size)  # one batch less where the sizes don't fit
    assert [event[2] for event in second] == list(range(batches - left, batches))
    seen = [prompt for event in second for prompt in event[3]]
    assert seen[:6] == order[4:][: len(seen)]
    assert used == order[:4]
    assert len({event[1:3] for event in rest if event[1] == 2}) == batches


def test_another_seed_wins_and_warns(tmp_path: Path, words: str) -> None:
    run = Run(tmp_path, words)
    whole = run.fit(save=True)
    run.data["seed"] = 6
    with pytest.warns(UserWarning, match="Since the checkpoint seed 5 is now 6: the run goes on"):
        rest = run.fit(run.saved("step")[7])
    assert [seen[:2] for seen in rest] == [seen[:2] for seen in whole[7:]]
    assert rest != whole[7:]

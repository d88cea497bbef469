"""Checkpoints of others neither run code nor choose where files go, or which are removed."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from command import printed
from detox_lightning.errors import TrainingError
from detox_lightning.runs.atomic_save import AtomicCheckpointIO
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.find_checkpoint import run_name
from detox_lightning.runs.foreign_paths import is_inside
from toys import make_trainer


@pytest.mark.quick(2)
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_checkpoints_are_opened_as_plain_values_unless_asked(verb: str) -> None:
    """Lightning would open those from an address with all that they bring."""
    demo = ("--config", "configs/demo.yaml")
    assert printed(verb, *demo)["weights_only"] is True
    assert printed(verb, *demo, "--weights_only=false")["weights_only"] is False


@pytest.mark.parametrize(
    ("told", "name"),
    [("version_3", "version_3"), ("my run", "my run"), (None, None), (7, None)]
    + [(bad, None) for bad in ("../../x", "/etc/x", "..", "", "a\\b", "a\0b", "a/b")]
    + [(bad, None) for bad in ("~", "~root", "$HOME", "a\nb", "file:", "x::memory:")],
)
def test_the_run_s_name_stays_inside(tmp_path: Path, told: object, name: str | None) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"run": told, "pytorch-lightning_version": "2.6"}, file)
    assert run_name(file) == name


class Tiny(LightningModule):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Noting(Callback):
    """A callback of somebody's with a path in its state."""

    def __init__(self) -> None:
        self.file = ""

    def state_dict(self) -> dict[str, Any]:
        return {"files": [{"file": self.file}], "metric": "val/toxicity"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.file = state_dict["files"][0]["file"]


Saving = Callable[..., ModelCheckpoint]


def go(epochs: int, *callbacks: Callback, ckpt_path: Path | None = None) -> Any:
    options = {"enable_checkpointing": True, "callbacks": list(callbacks)}
    trainer = make_trainer(Path.cwd(), max_epochs=epochs, **options)
    loader = DataLoader(torch.ones(2, 1), batch_size=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(Tiny(), loader, ckpt_path=ckpt_path, weights_only=True)
    trainer.told = [
        str(warning.message) for warning in told if "is dropped" in str(warning.message)
    ]
    return trainer


def forged(
    file: Path, change: Callable[[dict[str, Any]], object], name: str = "Checkpoint"
) -> Path:
    """The checkpoint, with another state of its callbacks of a name."""
    checkpoint = torch.load(file, weights_only=True)
    for key, state in checkpoint["callbacks"].items():
        if name in key:
            change(state)
    torch.save(checkpoint, file)
    return file


BOUNDED: Saving = lambda **options: BoundedCheckpoint(**options)  # noqa: E731
PLAIN: Saving = lambda **options: ModelCheckpoint(save_last=True, **options)  # noqa: E731
OUT = "{0}/../Documents"
ALL = ["last_model_path", "best_model_path", "kth_best_model_path"]
FORGERIES: dict[str, dict[str, Any]] = {
    **{name: {name: OUT} for name in ALL},
    "absolute": {"last_model_path": "{1}/Documents"},
    "a link in the folder": {"last_model_path": "{0}/way/thesis"},
    "the folder itself": {"last_model_path": "{0}/."},
    "no checkpoint": {"last_model_path": "{0}/notes"},
    "a file's address": {"last_model_path": "file://{1}/Documents"},
    "a chain of addresses": {"last_model_path": "simplecache::file://{1}/Documents"},
    "another way to say file": {"last_model_path": "local://{1}/Documents"},
    "the home": {"last_model_path": "~/Documents"},
    "a number": {"last_model_path": 7},
    "the best": {
        "best_k_models": {OUT: torch.tensor(0.0)},
        "kth_best_model_path": OUT,
        "kth_value": torch.tensor(0.0),
    },
    "one of the best that is none": {"kth_best_model_path": "{0}/other.ckpt"},
    "a field of a subclass": {"paths": {"further": [OUT]}},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and home, with documents and a run's folder beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("Documents", "Documents/thesis", "run/notes"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "it.txt").write_text("years of work")
    (tmp_path / "run" / "way").symlink_to(tmp_path / "Documents")
    return tmp_path


@pytest.mark.quick(8)
@pytest.mark.parametrize("make", [BOUNDED, PLAIN], ids=["ours", "Lightning's"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_checkpoint_has_anything_else_removed(home: Path, forgery: str, make: Saving) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {fill(key): fill(x) for key, x in value.items()}
        if isinstance(value, list):
            return [fill(x) for x in value]
        return value.format(run, home) if isinstance(value, str) else value

    run = home / "run"
    options = {"dirpath": run, "monitor": "loss", "save_top_k": 1}
    also = [] if make is BOUNDED else [BoundedCheckpoint(dirpath=run / "ours")]
    go(1, make(**options), *also)
    last = forged(run / "last.ckpt", lambda state: state.update(fill(FORGERIES[forgery])))
    before = sorted(home.rglob("it.txt"))
    also = [] if make is BOUNDED else [BoundedCheckpoint(dirpath=run / "ours")]
    trainer = go(3, make(**options), *also, ckpt_path=last)
    assert sorted(home.rglob("it.txt")) == before
    assert len(before) == 3
    kind = "BoundedCheckpoint" if make is BOUNDED else "ModelCheckpoint"
    start = re.escape(f"--ckpt_path {last}: the state of {kind} is dropped")
    assert any(re.match(start, line) for line in trainer.told)
    saving = next(x for x in trainer.checkpoint_callbacks if type(x).__name__ == kind)
    assert trainer.current_epoch == 3
    assert Path(saving.last_model_path).is_file()


def test_other_callbacks_paths_stay_inside(home: Path) -> None:
    saving, noting = BoundedCheckpoint(dirpath=home / "run"), Noting()
    noting.file = str(home / "run" / "noted.txt")
    go(1, saving, noting)
    last = home / "run" / "last.ckpt"
    noting = Noting()
    assert go(2, BoundedCheckpoint(dirpath=home / "run"), noting, ckpt_path=last).told == []
    assert noting.file == str(home / "run" / "noted.txt")
    forged(last, lambda state: state["files"][0].update(file="Documents/it.txt"), "Noting")
    noting = Noting()
    told = go(3, BoundedCheckpoint(dirpath=home / "run"), noting, ckpt_path=last).told
    assert noting.file == ""
    assert [("Noting" in line, "'Documents/it.txt'" in line) for line in told] == [(True, True)]


def test_a_run_of_one_s_own_goes_on_with_its_best(home: Path) -> None:
    """Also by another name of its folder; in another folder it begins with none, as ever."""
    options = {"monitor": "loss", "mode": "max", "filename": "{epoch}"}  # the first is the best
    go(1, BoundedCheckpoint(dirpath=home / "run", **options))
    last = home / "run" / "last.ckpt"
    again = BoundedCheckpoint(dirpath=home / "run", **options)
    assert go(2, again, ckpt_path=last).told == []
    assert Path(again.best_model_path).name == "epoch=0.ckpt"
    elsewhere = BoundedCheckpoint(dirpath=home / "another", **options)
    assert go(3, elsewhere, ckpt_path=last).told == []
    assert elsewhere.best_model_path == str(home / "another" / "epoch=2.ckpt")


def test_what_is_inside() -> None:
    assert is_inside("run/a.ckpt", "run")
    assert is_inside("run/x/../a.ckpt", "run")
    assert is_inside("s3://bucket/run/a.ckpt", "s3://bucket/run/")
    for out in ("run", "run/..", "run/../a", "a", "/a", "~/a", "file:run/a", "run/\0", "run2/a"):
        assert not is_inside(out, "run"), out
    for out in ("s3://bucket/run/../a", "s3://bucket/other/a", "s3://bucket/run", "run/a"):
        assert not is_inside(out, "s3://bucket/run"), out
    assert not is_inside("a", None)


def test_only_files_of_the_run_are_removed(home: Path) -> None:
    """Whoever asks for it."""
    disk = AtomicCheckpointIO(lambda: [str(home / "run")])
    inside, outside = home / "run" / "a.ckpt", home / "b.ckpt"
    for file in (inside, outside):
        file.write_text("")
    with pytest.warns(UserWarning, match=r"b.ckpt is not removed: it is in none of this run's"):
        disk.remove_checkpoint(outside)
    for path in (inside, home / "run" / "notes", home / "run" / "nothing"):
        disk.remove_checkpoint(path)
    assert (inside.exists(), outside.exists()) == (False, True)
    assert (home / "run" / "notes" / "it.txt").exists()
    disk.save_checkpoint({}, outside)  # as a search for a learning rate does it
    disk.remove_checkpoint(outside)
    assert not outside.exists()


def test_a_second_one_s_former_checkpoints_are_removed_as_ever(home: Path) -> None:
    """Its folder is found out after ours."""
    options = {"monitor": "loss", "mode": "min", "filename": "{epoch}"}

    def both() -> list[Callback]:
        return [BoundedCheckpoint(dirpath=home / "run"), ModelCheckpoint(**options)]

    trainer = go(1, *both())
    (second,) = trainer.checkpoint_callbacks[1:]
    first = Path(second.best_model_path)
    assert first.parent == home / "checkpoints"
    last = home / "run" / "last.ckpt"
    trainer = go(2, *both(), ckpt_path=last)
    assert trainer.told == []
    assert [file.name for file in first.parent.iterdir()] == ["epoch=1.ckpt"]


def test_links_lead_no_checkpoint_out(home: Path) -> None:
    disk, run = AtomicCheckpointIO(lambda: [str(home / "run")]), home / "run"
    for link in (".last.ckpt.partial", "last.ckpt", "previous.ckpt"):
        (run / link).symlink_to(home / "Documents" / "it.txt")
    disk.save_checkpoint({}, run / "last.ckpt")
    disk.save_checkpoint({}, run / "last.ckpt")
    assert (home / "Documents" / "it.txt").read_text() == "years of work"
    assert not (run / "previous.ckpt").is_symlink()
    with pytest.raises(TrainingError, match=r"way/a.ckpt is not written: a link leads out of"):
        disk.save_checkpoint({}, run / "way" / "a.ckpt")
    assert not list((home / "Documents").glob("*.ckpt"))

"""When a folder is written, where, and when not."""

import os
import subprocess
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForSeq2SeqLM

from detox_lightning.callbacks.export import ExportCallback, write_export
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.models.lora import LoRA
from detox_lightning.runs.run_folders import atomic_folder
from detox_lightning.stages.supervised import SupervisedModule
from toys import make_trainer, pairs_loader


def fit(folder: Path, name: str, export: ExportCallback, *callbacks: Callback, **options: Any):
    lora = options.pop("lora", None)
    ckpt_path = options.pop("ckpt_path", None)
    trainer = make_trainer(folder, max_epochs=1, callbacks=[export, *callbacks], **options)
    trainer.fit(SupervisedModule(name, lora), pairs_loader(), ckpt_path=ckpt_path)
    return trainer


def test_the_folder_given(tiny_t5: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export = ExportCallback(str(tmp_path / "out" / "summarizer"))
    (tmp_path / "out" / "summarizer").mkdir(parents=True)  # empty: no obstacle
    fit(tmp_path, tiny_t5, export)
    assert export.written == tmp_path / "out" / "summarizer"
    AutoModelForSeq2SeqLM.from_pretrained(export.written)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summarizer"]


def test_by_default_the_runs_log_folder(tiny_t5: str, tmp_path: Path) -> None:
    export = ExportCallback()
    trainer = fit(tmp_path, tiny_t5, export, logger=CSVLogger(tmp_path))
    assert export.written == Path(trainer.log_dir) / "model"
    assert (export.written / "model.safetensors").exists()
    export = ExportCallback()
    trainer = fit(tmp_path, tiny_t5, export, logger=CSVLogger(tmp_path), lora=LoRA(r=2))
    assert export.written == Path(trainer.log_dir) / "adapter"
    assert (export.written / "adapter_model.safetensors").exists()


def test_an_earlier_result_stays(tiny_t5: str, tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        export = ExportCallback()
        fit(tmp_path, tiny_t5, export)
        names.append(export.written.name)
    assert names == ["model", "model-1", "model-2"]


def test_a_folder_with_something_in_it_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="Give another folder"):
        fit(tmp_path, "no/such-model", ExportCallback(str(tmp_path)))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_stopped_writes_nothing(tiny_t5: str, tmp_path: Path, stop: Any) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise stop

    export = ExportCallback()
    with pytest.raises((RuntimeError, SystemExit)):
        fit(tmp_path, tiny_t5, export, Stop())
    assert export.written is None
    assert list(tmp_path.iterdir()) == []


def test_half_a_folder_never_looks_whole(tmp_path: Path) -> None:
    class Halting(torch.nn.Module):
        def export(self, folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            raise OSError("no space left")

    class Whole(torch.nn.Module):
        def export(self, folder: Path) -> None:
            (folder / "model.safetensors").write_text("")

    with pytest.raises(OSError, match="no space"):
        write_export(Halting(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    write_export(Whole(), tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match="something in it"):
        write_export(Whole(), tmp_path / "model")


def test_a_finished_run_that_is_resumed_writes(tiny_t5: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(SupervisedModule(tiny_t5), pairs_loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    export = ExportCallback()
    fit(tmp_path, tiny_t5, export, ckpt_path=tmp_path / "last.ckpt")
    assert (export.written / "model.safetensors").exists()


def test_a_finished_run_that_is_resumed_writes_what_is_missing(
    tiny_t5: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, merged = tmp_path / "mine", tmp_path / "mine-merged"
    last = tmp_path / "checkpoints" / "last.ckpt"
    options: dict[str, Any] = {"lora": LoRA(r=2)}
    fit(tmp_path, tiny_t5, ExportCallback(str(mine)), **options).save_checkpoint(last)
    weights = mine / "adapter_model.safetensors"
    before = weights.stat()

    export = ExportCallback(str(mine), merged=True)  # as if killed before it was merged
    fit(tmp_path, tiny_t5, export, ckpt_path=last, **options)
    assert export.written == mine
    AutoModelForSeq2SeqLM.from_pretrained(merged)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "mine", "mine-merged"}
    assert (weights.stat().st_ino, weights.stat().st_mtime) == (before.st_ino, before.st_mtime)

    export, made = ExportCallback(str(mine), merged=True), merged.stat().st_ino
    with caplog.at_level("INFO"):
        fit(tmp_path, tiny_t5, export, ckpt_path=last, **options)
    assert export.written is None
    assert merged.stat().st_ino == made
    assert f"the run in {tmp_path} is complete, and {mine} exists" in caplog.text

    with pytest.raises(InputError, match="something in it"):  # as there is something left to do
        fit(tmp_path, tiny_t5, ExportCallback(str(mine)), **options)


def test_a_trial_run_writes_nothing(tiny_t5: str, tmp_path: Path) -> None:
    export = ExportCallback()
    fit(tmp_path, tiny_t5, export, fast_dev_run=True)
    assert export.written is None


def test_a_folder_that_is_filled_during_the_run_costs_nothing(tiny_t5: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"

    class Fill(Callback):
        def on_train_end(self, *_: Any) -> None:
            folder.mkdir()
            (folder / "notes.txt").write_text("mine")

    export = ExportCallback(str(folder))
    with pytest.warns(
        UserWarning, match="export.folder=.* was filled by another program meanwhile"
    ):
        fit(tmp_path, tiny_t5, export, Fill())
    assert export.written == tmp_path / "mine-1"
    AutoModelForSeq2SeqLM.from_pretrained(export.written)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_what_is_complete_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == folder:
            raise OSError(39, "Directory not empty")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(TrainingError) as caught, atomic_folder(folder) as partial:
        (partial / "it.txt").write_text("hours")
    (kept,) = tmp_path.iterdir()
    assert (kept / "it.txt").read_text() == "hours"
    assert not kept.match("*.partial")  # those of processes that are gone are removed
    assert str(caught.value) == (
        f"{folder}: can't be written (Directory not empty); its whole content is in {kept}: move it"
    )


def test_a_disk_without_rights_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refuse)
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "it.txt").write_text("hours")
    assert (tmp_path / "model" / "it.txt").read_text() == "hours"


def test_two_may_write_at_a_time_and_what_the_dead_left_goes(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder, host = tmp_path / "model", gethostname()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, others = (
        tmp_path / f".model.{host}-{process}.partial" for process in (dead.pid, os.getppid())
    )
    elsewhere = tmp_path / f".model.elsewhere-{dead.pid}.partial"
    for path in (left, others, elsewhere):
        path.mkdir()
        (path / "config.json").write_text("{}")
    with atomic_folder(folder) as partial:
        assert sorted(tmp_path.iterdir()) == sorted([partial, others, elsewhere])
        others.rename(folder)  # the other one is ready first
        (partial / "it.txt").write_text("ours")
    message = f"{folder} was filled by another program meanwhile; writing to {folder}-1"
    assert message in [str(warning.message) for warning in recwarn]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model", "model-1", elsewhere.name}
    assert [path.name for path in (tmp_path / "model-1").iterdir()] == ["it.txt"]
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_files_have_the_rights_of_any_new_file(tiny_t5: str, tmp_path: Path) -> None:
    (tmp_path / "any").write_text("")
    export = ExportCallback()
    fit(tmp_path, tiny_t5, export, lora=LoRA(r=2))
    rights = {path.name: path.stat().st_mode for path in export.written.iterdir()}
    assert "adapter_model.safetensors" in rights
    assert set(rights.values()) == {(tmp_path / "any").stat().st_mode}

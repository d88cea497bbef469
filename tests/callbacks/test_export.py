"""When a folder is written, where, and when not."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForSeq2SeqLM

from detox_lightning.callbacks.export import ExportCallback, write_whole
from detox_lightning.errors import InputError
from detox_lightning.models.lora import LoRA
from detox_lightning.modules.supervised import SupervisedModule
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
    class Halting:
        def export(self, folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            raise OSError("no space left")

    class Whole:
        def export(self, folder: Path) -> None:
            (folder / "model.safetensors").write_text("")

    with pytest.raises(OSError, match="no space"):
        write_whole(Halting(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    write_whole(
        Whole(), tmp_path / "model"
    )  # what was left behind is no obstacle and no part of it
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match="something in it"):
        write_whole(Whole(), tmp_path / "model")


def test_a_finished_run_that_is_resumed_writes(tiny_t5: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(SupervisedModule(tiny_t5), pairs_loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    export = ExportCallback()
    fit(tmp_path, tiny_t5, export, ckpt_path=tmp_path / "last.ckpt")
    assert (export.written / "model.safetensors").exists()


def test_a_trial_run_writes_nothing(tiny_t5: str, tmp_path: Path) -> None:
    export = ExportCallback()
    fit(tmp_path, tiny_t5, export, fast_dev_run=True)
    assert export.written is None

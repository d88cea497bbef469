"""Writes batches to the disk whose numbers were not finite in training."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.errors import TrainingError
from detox_lightning.protocols import as_stage
from detox_lightning.runs.run_folders import atomic_file, log_folder, next_free_path
from detox_lightning.stages.faults import Fault

_NOT_IN_NAMES = re.compile(r"[^\w.]|\.\.")  # a place's number may come from a checkpoint


class FaultsCallback(Callback):
    """Writes each batch whose score, loss or gradient was not finite, and says where it is.

    The run's folder ``faults`` gets two files, named after the place in the run, such as
    ``rollout-17``: tensors as safetensors; texts and the observation as json.
    """

    def __init__(self) -> None:
        self.folder = Path()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the run's folder while all processes can be asked."""
        self.folder = log_folder(trainer) / "faults"

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Writes the batches that were left out, and warns."""
        for fault, outcome in self.write_faults(trainer, pl_module):
            warnings.warn(f"{fault.place}: {fault.what}: left out. {outcome}", stacklevel=2)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes the batch that ended training, and adds its file to the message."""
        for fault, outcome in self.write_faults(trainer, pl_module):
            if isinstance(exception, TrainingError) and fault.what in str(exception):
                exception.args = (f"{exception}. {outcome}",)
            else:
                warnings.warn(f"{fault.place}: {fault.what}. {outcome}", stacklevel=2)

    def write_faults(self, trainer: Trainer, module: object) -> Iterator[tuple[Fault, str]]:
        """Writes the faults that a stage has kept, and removes them from the stage.

        Yields:
            Each fault, and a sentence that says where it was written.
        """
        stage = as_stage(module)
        rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
        while stage is not None and stage.faults.kept:
            fault = stage.faults.kept.pop(0)
            name = f"{_NOT_IN_NAMES.sub('-', fault.place)}{rank}.json"
            try:
                file = _write(fault, self.folder / name)
                yield fault, f"The batch is in {file.with_suffix('.safetensors')}"
            except Exception as error:  # a failure to write must not hide the fault
                yield fault, f"The batch could not be written ({error})"


def _write(fault: Fault, file: Path) -> Path:
    """Writes a fault as a json and a safetensors file, with a number if they exist already."""
    from safetensors.torch import save

    file = next_free_path(file)
    about = {"place": fault.place, "what": fault.what, **fault.texts}
    text = json.dumps(about, ensure_ascii=False, indent=2)
    for path, content in (
        (file.with_suffix(".safetensors"), save(fault.tensors)),
        (file, text.encode("utf8", "replace")),
    ):
        with atomic_file(path) as partial:
            partial.write_bytes(content)
    return file

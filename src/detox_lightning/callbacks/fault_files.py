"""Writes to the disk what was not finite while training, with the batch that it came from."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.errors import TrainingError
from detox_lightning.runs.atomic_save import partial_of
from detox_lightning.runs.run_folders import free, log_folder
from detox_lightning.stages.faults import Fault

FOLDER = "faults"
NO_NAME = re.compile(r"[^\w.]|\.\.")  # in a place, which counts on from what a checkpoint says


class FaultsCallback(Callback):
    """Writes each batch whose score, loss or gradient was not finite, and says where it is.

    In the folder ``faults`` of the run: tensors as safetensors, texts and what was seen as json,
    under the place in the run, such as ``rollout-17``.
    """

    def __init__(self) -> None:
        """Knows no folder as yet."""
        self.folder = Path()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks where the run's folder is, as long as all processes can be asked."""
        self.folder = log_folder(trainer) / FOLDER

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Writes what was left out, and warns."""
        for fault, told in self.written(trainer, pl_module):
            warnings.warn(f"{fault.place}: {fault.what}: left out. {told}", stacklevel=2)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes what training ended with, and adds to its message where that is."""
        for fault, told in self.written(trainer, pl_module):
            if isinstance(exception, TrainingError) and fault.what in str(exception):
                exception.args = (f"{exception}. {told}",)
            else:
                warnings.warn(f"{fault.place}: {fault.what}. {told}", stacklevel=2)

    def written(self, trainer: Trainer, module: Any) -> Iterator[tuple[Fault, str]]:
        """Writes what the module has kept.

        Args:
            trainer: Has the number of this process.
            module: Has the faults, if it is one of this package's.

        Yields:
            Each, and a sentence that says where it is.
        """
        faults = getattr(module, "faults", None)
        rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
        while faults is not None and faults.kept:
            fault = faults.kept.pop(0)
            name = f"{NO_NAME.sub('-', fault.place)}{rank}.json"
            try:
                file = write(fault, self.folder / name)
                yield fault, f"The batch is in {file.with_suffix('.safetensors')}"
            except Exception as error:  # whatever it is must not hide what it is about
                yield fault, f"The batch could not be written ({error})"


def write(fault: Fault, file: Path) -> Path:
    """Writes a fault as two files.

    Args:
        fault: What to write.
        file: The json file; the tensors go beside it. Gets a number if it is there.

    Returns:
        The json file.

    Raises:
        OSError: If it can't be written.
    """
    from safetensors.torch import save

    file.parent.mkdir(parents=True, exist_ok=True)
    file = free(file)
    about = {"place": fault.place, "what": fault.what, **fault.texts}
    text = json.dumps(about, ensure_ascii=False, indent=2)
    for whole, content in (
        (file.with_suffix(".safetensors"), save(fault.tensors)),
        (file, text.encode("utf8", "replace")),
    ):
        partial_of(whole).write_bytes(content)
        partial_of(whole).replace(whole)
    return file

"""Writes the configuration of a run into the run's folder."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from detox_lightning.callbacks.folders import free, log_folder


class ConfigurationCallback(SaveConfigCallback):
    """Writes the whole configuration into the run's folder, and over nothing.

    Lightning's own works with loggers alone that make a folder of files for each run.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes ``config.yaml``, with a number if there is one already, in one process."""
        if self.already_saved:
            return
        self.already_saved = True
        folder = log_folder(trainer)
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            file = free(folder / self.config_filename)
            self.parser.save(self.config, file, skip_none=False, multifile=self.multifile)

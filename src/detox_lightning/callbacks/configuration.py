"""Writes the configuration of a run into the run's folder."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from detox_lightning.callbacks.folders import free


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


def log_folder(trainer: Trainer) -> Path:
    """The run's folder, with whatever logger: the one that ``ModelCheckpoint`` takes.

    Args:
        trainer: All processes must ask, as they agree on the first one's.
    """
    folder = Path(trainer.default_root_dir)
    if logger := trainer.logger:
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or folder, str(logger.name), version)
    return Path(trainer.strategy.broadcast(str(folder)))

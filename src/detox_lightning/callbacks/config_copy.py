"""Writes the configuration of a run into the run's folder."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from detox_lightning.errors import writing
from detox_lightning.redaction import without_secrets
from detox_lightning.runs.atomic_save import partial_of
from detox_lightning.runs.run_folders import free, log_folder


class ConfigurationCallback(SaveConfigCallback):
    """Writes the whole configuration into the run's folder, and over nothing.

    A run that goes on with the same configuration writes it once.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes ``config.yaml``, with a number if there is another already, in one process.

        Raises:
            TrainingError: If the operating system refuses.
        """
        if self.already_saved:
            return
        self.already_saved = True
        folder = log_folder(trainer)
        if not trainer.is_global_zero:
            return
        file = folder / self.config_filename
        text = discreet(self.parser.dump(self.config, skip_none=False))
        with writing(file):
            folder.mkdir(parents=True, exist_ok=True)
            is_there = (same(text, other) for other in folder.glob(f"{file.stem}*{file.suffix}"))
            if not any(is_there):
                partial = partial_of(file)
                partial.write_text(text, encoding="utf8")
                partial.replace(free(file))


def discreet(text: str) -> str:
    """A configuration without secrets, which whoever goes on with it must give again.

    Args:
        text: YAML, with comments only above it.
    """
    tree = yaml.safe_load(text)
    hidden = without_secrets(tree)
    if hidden == tree:
        return text
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return head + yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True)


def same(text: str, other: Path) -> bool:
    """Whether a configuration is that of a file, whatever checkpoint and version they begin from.

    Args:
        text: The configuration.
        other: The file.
    """
    return essence(text) == essence(other.read_text(encoding="utf8"))


def essence(text: str) -> dict[str, Any]:
    """A configuration without what differs between a run's beginning and its going on."""
    config: dict[str, Any] = yaml.safe_load(text)
    config.pop("ckpt_path", None)
    logger = config["trainer"]["logger"]
    for each in logger if isinstance(logger, list) else [logger]:
        if isinstance(each, dict):
            (each.get("init_args") or {}).pop("version", None)
    return config

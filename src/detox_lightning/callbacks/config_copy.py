"""Writes the configuration of a run into the run's folder."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from detox_lightning.errors import writing
from detox_lightning.redaction import without_secrets
from detox_lightning.runs.run_folders import atomic_file, log_folder, next_free_path


class ConfigurationCallback(SaveConfigCallback):
    """Writes the whole configuration into the run's folder, and overwrites nothing.

    A run that resumes with the same configuration doesn't write it again.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes ``config.yaml``, or ``config-1.yaml`` if the configuration has changed."""
        if self.already_saved:
            return
        self.already_saved = True
        folder = log_folder(trainer)  # asks all processes
        if not trainer.is_global_zero:
            return
        file = folder / self.config_filename
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        text = _without_secrets(text)
        with writing(file):
            others = folder.glob(f"{file.stem}*{file.suffix}")
            if all(_comparable(text) != _comparable(x.read_text(encoding="utf8")) for x in others):
                with atomic_file(next_free_path(file)) as partial:
                    partial.write_text(text, encoding="utf8")


def _without_secrets(text: str) -> str:
    """Hides a configuration's secrets, which must be given again to use it."""
    tree = yaml.safe_load(text)
    hidden = without_secrets(tree)
    if hidden == tree:
        return text
    comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return comments + yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True)


def _comparable(text: str) -> dict[str, Any]:
    """Returns a configuration without the options that change when its run resumes."""
    config: dict[str, Any] = yaml.safe_load(text)
    config.pop("ckpt_path", None)
    logger = config["trainer"]["logger"]
    for each in logger if isinstance(logger, list) else [logger]:
        if isinstance(each, dict):
            (each.get("init_args") or {}).pop("version", None)
    return config

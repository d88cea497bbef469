"""Writes the configuration of a run into the run's folder."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.errors import writing
from detox_lightning.redaction import without_secrets
from detox_lightning.runs.provenance import command_of
from detox_lightning.runs.run_folders import atomic_file, log_folder, next_free_path
from detox_lightning.stages.flag_changes import differences


class ConfigurationCallback(SaveConfigCallback):
    """Writes the whole configuration of ``fit`` into the run's folder.

    A resumed run replaces it, and tells what changed. Files of other runs are not overwritten.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing yet: the checkpoint may not fit these options."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes ``config.yaml``; ``config-1.yaml`` if that is another run's."""
        folder = log_folder(trainer)  # asks all processes
        if not trainer.is_global_zero:
            return
        file = folder / self.config_filename
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        text = _without_secrets(text)
        new, command = _comparable(text), command_of(trainer)
        # without a logger, several runs have the same folder
        resumes = trainer.logger is not None and command is not None and command.resumes
        with writing(file):
            found = {
                x: _comparable(x.read_text(encoding="utf8")) for x in folder.glob("config*.yaml")
            }
            if new in found.values():
                return
            if resumes and (old := found.get(file)):
                changes = (x for key in old for x in differences(key, old[key], new.get(key)))
                told = ", ".join(f"{flag}: {before} → {now}" for flag, before, now in changes)
                rank_zero_info(f"{file} has the options with which the run resumes; new: {told}")
            else:
                file = next_free_path(file)
            with atomic_file(file) as partial:
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

"""Takes a run's own configuration for commands that name a checkpoint and no configuration."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.cli.config_files import flags_with_values
from detox_lightning.errors import InputError
from detox_lightning.runs.atomic_save import LAST
from detox_lightning.runs.find_checkpoint import newest_run
from detox_lightning.runs.run_folders import folder_of


def with_run_config(words: Sequence[str]) -> list[str]:
    """Adds the ``config.yaml`` of the checkpoint's run to a command that names no configuration.

    ``fit`` and commands with ``--config``, ``--model`` or ``--data`` stay as they are.
    """
    flags = dict(flags_with_values(words))
    name = flags.get("--ckpt_path")
    given = {"--config", "-c", "--model", "--data"} & set(flags) or {"--help", "-h"} & set(words)
    if words[0] == "fit" or given or name is None:
        return list(words)
    run = newest_run(Path("runs")) if name == LAST else folder_of(Path(name))
    file = (run or Path("runs/*/*")) / "config.yaml"
    if run is None or not file.is_file():
        raise InputError(
            f"--ckpt_path {name}: there is no {file} of its run; give a configuration with --config"
        )
    rank_zero_info(f"The configuration is {file}")
    chosen = ["--ckpt_path", str(run)] if name == LAST else []
    return [words[0], "--config", str(file), *words[1:], *chosen]

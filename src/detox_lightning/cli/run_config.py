"""Takes a run's own configuration for commands that name a checkpoint and no configuration."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.cli.config_files import flags_with_values
from detox_lightning.errors import InputError
from detox_lightning.runs.atomic_save import LAST
from detox_lightning.runs.find_checkpoint import named_checkpoint, newest_run
from detox_lightning.runs.run_folders import folder_of
from detox_lightning.runs.several_checkpoints import ALL, names_of


def with_run_config(words: Sequence[str]) -> list[str]:
    """Adds the ``config.yaml`` of the checkpoint's run to a command that names no configuration.

    Commands with ``--config``, ``--model`` or ``--data`` stay as they are. ``last`` is the newest
    run in ``runs``; for ``fit``, the newest inactive one. InputError if there is no such run.
    """
    flags = dict(flags_with_values(words))
    (*_, name), is_all = names_of(flags.get("--ckpt_path", ""))
    given = {"--config", "-c", "--model", "--data"} & set(flags) or {"--help", "-h"} & set(words)
    if given or not name:
        return list(words)
    run = newest_run(Path("runs"), words[0]) if name == LAST else folder_of(Path(name))
    if run is None:
        kind = "inactive run" if words[0] == "fit" else "run"
        raise InputError(
            f"--ckpt_path last: there is no {kind} with a checkpoint in runs/ yet; train first, "
            "with fit --config FILE"
        )
    if not (file := run / "config.yaml").is_file():
        named_checkpoint(name)  # it says what else is wrong
        raise InputError(
            f"--ckpt_path {name}: there is no {file} of its run; give a configuration with --config"
        )
    rank_zero_info(f"The configuration is {file}")
    chosen = str(run / ALL if is_all else run)
    words = [*words, "--ckpt_path", chosen] if name == LAST and words[0] != "fit" else words
    return [words[0], "--config", str(file), *words[1:]]

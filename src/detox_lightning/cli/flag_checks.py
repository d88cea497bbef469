"""Checks all flags of a command, files included, before anything is made of them."""

import inspect
import os
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from torch.optim import Optimizer

from detox_lightning.errors import InputError
from detox_lightning.stages.number_bounds import check_number, leaves

MIN_LIMIT = 8  # threads or worker processes that are allowed on any machine
MAX_SEED = 2**32 - 1
# last part of the flags whose value may be a path
PATH_OPTIONS = {
    *("folder", "file", "dirpath", "save_dir", "root_dir", "default_root_dir", "ckpt_path"),
    *("source", "predict_source", "model", "policy", "adapter", "tokenizer", "toxicity_model"),
    *("second_toxicity_model", "perplexity_model", "cache_dir", "dir", "log_dir", "filename"),
}
# flags of the trainer that are refused if they have this value, and why
REFUSED_VALUES = {
    "trainer.enable_checkpointing": (
        False,
        "a run that is stopped goes on from last.ckpt, which is always written; leave it true. "
        "How often: checkpoint.every_n_batches",
    ),
    "trainer.barebones": (
        True,
        "checkpoints, exports and figures are made by callbacks and loggers, which it shuts out. "
        "For speed give trainer.logger=false, trainer.enable_progress_bar=false and "
        "trainer.enable_model_summary=false",
    ),
}


def check_flags(config: Any) -> None:
    """Refuses what can be known to be wrong from the flags alone.

    The home folder is put in place of ``~`` at the beginning of paths.

    Args:
        config: A command's configuration; changed in place.

    Raises:
        InputError: If something is wrong.
    """
    _check_groups("model", config.model)
    for flag, value, holder, key in leaves(config):
        option = flag.rstrip(".0123456789").rpartition(".")[2]
        refused, reason = REFUSED_VALUES.get(flag, (None, ""))
        if refused is not None and value is refused:
            raise InputError(f"{flag}={str(value).lower()}: {reason}")
        if isinstance(value, str):
            if "\0" in value:
                raise InputError(f"--{flag}={value!r}: a zero byte is in it; take it out")
            if option in PATH_OPTIONS and not isinstance(holder, tuple):
                holder[key] = os.path.expanduser(value)
            elif option == "class_path":
                _check_class(flag.removesuffix(".class_path"), value)
        elif flag == "threads" or option == "num_workers":
            _check_cores(flag, value, "threads" if flag == "threads" else "processes")
        elif flag == "seed_everything" and value is not None and not 0 <= value <= MAX_SEED:
            raise InputError(f"--{flag}={value}: must be from 0 to {MAX_SEED}, or true")
        check_number(flag, value)


def _check_groups(flag: str, config: Any) -> None:
    """Refuses null for a group of options, such as ``model.schedule``."""
    module, _, name = config.class_path.rpartition(".")
    hints = get_type_hints(getattr(import_module(module), name).__init__)
    for option, value in vars(config.init_args).items():
        if value is None and is_dataclass(hints.get(option)):
            raise InputError(
                f"--{flag}.{option}=null: it is a group of options; leave it out for the "
                f"defaults, or give the options one by one, as in --{flag}.{option}.NAME"
            )


def _check_cores(flag: str, number: Any, unit: str) -> None:
    """Refuses far more threads or processes than there are cores."""
    limit = max(MIN_LIMIT, os.cpu_count() or 1)
    if isinstance(number, int) and number > limit:
        raise InputError(
            f"--{flag}={number}: this machine has {os.cpu_count()} cores, and more {unit} only get "
            f"in each other's way; give at most {limit}"
        )


def _check_class(flag: str, path: str) -> None:
    """Refuses a function where a class is named, before it is called."""
    module, _, name = path.rpartition(".")
    if name == "Timer" and flag == "trainer.callbacks":
        raise InputError(
            "trainer.callbacks: Timer: its options can't be written into config.yaml. Give "
            "trainer.max_time, such as 00:12:00:00"
        )
    try:
        named = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):  # the parser has a message for that
        return
    annotations = getattr(named, "__annotations__", {})
    made = named if inspect.isclass(named) else annotations.get("return")
    is_optimizer = flag.rpartition(".")[2] == "optimizer"
    if made is None or (
        is_optimizer and not (inspect.isclass(made) and issubclass(made, Optimizer))
    ):
        kind = "an optimizer's class" if is_optimizer else "a class"
        example = ", such as torch.optim.AdamW" if is_optimizer else ""
        raise InputError(
            f"--{flag}={path}: this is not {kind}, so it is not called; give {kind}{example}"
        )

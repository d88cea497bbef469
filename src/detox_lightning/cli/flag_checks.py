"""Checks all flags of a command, files included, before anything is made of them."""

import inspect
import os
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from torch.optim import Optimizer

from detox_lightning.errors import InputError
from detox_lightning.stages.number_bounds import check_number, leaves

MIN_LIMIT = 8  # threads or worker processes that any machine may have
MAX_SEED = 2**32 - 1
# last part of the flags whose value may be a path
PATH_OPTIONS = {
    *("folder", "file", "dirpath", "save_dir", "root_dir", "default_root_dir", "ckpt_path"),
    *("source", "predict_source", "model", "policy", "adapter", "tokenizer", "toxicity_model"),
    *("second_toxicity_model", "similarity_model", "perplexity_model", "cache_dir", "dir"),
    *("log_dir", "filename", "identity_templates", "delete_words", "fluency_model"),
}
# flags of the trainer that are refused if they have this value, and why
REFUSED_VALUES = {
    "trainer.enable_checkpointing": (
        False,
        "a stopped run resumes from last.ckpt, which is always written; leave it true. How often: "
        "checkpoint.every_n_batches",
    ),
    "trainer.barebones": (
        True,
        "it turns off the callbacks and loggers that write checkpoints, exports and figures. For "
        "speed give trainer.logger=false, trainer.enable_progress_bar=false and "
        "trainer.enable_model_summary=false",
    ),
}


def check_flags(config: Any) -> None:
    """Refuses what is wrong for any machine, model and data, and expands ``~`` in paths.

    Args:
        config: A command's configuration; changed in place.

    Raises:
        InputError: If something is wrong.
    """
    _check_groups(config.model)
    for flag, value, holder, key in leaves(config):
        option = flag.rstrip(".0123456789").rpartition(".")[2]
        refused, reason = REFUSED_VALUES.get(flag, (None, ""))
        if refused is not None and value is refused:
            raise InputError(f"{flag}={str(value).lower()}: {reason}")
        if isinstance(value, str):
            if "\0" in value:
                raise InputError(f"--{flag}={value!r}: it contains a zero byte; take it out")
            if option in PATH_OPTIONS and not isinstance(holder, tuple):
                holder[key] = os.path.expanduser(value)
            elif option == "class_path":
                _check_class(flag.removesuffix(".class_path"), value)
        elif flag == "threads" or option == "num_workers":
            limit = max(MIN_LIMIT, os.cpu_count() or 1)
            if isinstance(value, int) and value > limit:
                raise InputError(
                    f"--{flag}={value}: this machine has {os.cpu_count()} cores, and more "
                    f"{'threads' if flag == 'threads' else 'processes'} slow each other down; give "
                    f"at most {limit}"
                )
        elif flag == "seed_everything" and value is not None and not 0 <= value <= MAX_SEED:
            raise InputError(f"--{flag}={value}: must be from 0 to {MAX_SEED}, or true")
        check_number(flag, value)


def _check_groups(model: Any) -> None:
    """Refuses null for a group of options, such as ``model.schedule``."""
    module, _, name = model.class_path.rpartition(".")
    hints = get_type_hints(getattr(import_module(module), name).__init__)
    for option, value in vars(model.init_args).items():
        if value is None and is_dataclass(hints.get(option)):
            raise InputError(
                f"--model.{option}=null: it is a group of options; leave it out for the defaults, "
                f"or give the options one by one, as in --model.{option}.NAME"
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
    except (ImportError, AttributeError, ValueError):  # a class_path that nothing imports
        return
    made = named if inspect.isclass(named) else getattr(named, "__annotations__", {}).get("return")
    is_optimizer = flag.rpartition(".")[2] == "optimizer"
    if is_optimizer and not (inspect.isclass(made) and issubclass(made, Optimizer)):
        raise InputError(
            f"--{flag}={path}: this is not an optimizer's class, so it is not called; give an "
            "optimizer's class, such as torch.optim.AdamW"
        )
    if made is None or (made is not named and flag.rpartition(".")[2].startswith("reward")):
        instead = ", or a function's path without class_path" if "reward" in flag else ""
        raise InputError(
            f"--{flag}={path}: this is not a class, so it is not called; give a class{instead}"
        )

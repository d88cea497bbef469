"""A look at all flags of a command, files included, before anything is made of them."""

import inspect
import os
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from jsonargparse import Namespace
from torch.optim import Optimizer

from detox_lightning.errors import InputError

MOST = 8  # threads or worker processes, on a machine of fewer cores
# the last part of the flags whose value may be a path
PATHS = {
    *("folder", "file", "dirpath", "save_dir", "root_dir", "default_root_dir", "ckpt_path"),
    *("source", "predict_source", "model", "policy", "adapter", "tokenizer", "toxicity_model"),
    *("second_toxicity_model", "perplexity_model", "cache_dir", "dir", "log_dir", "filename"),
}
ALWAYS_SAVED = (
    "trainer.enable_checkpointing=false: a run that is stopped goes on from last.ckpt, which is "
    "always written; leave it true. How often: checkpoint.every_n_batches"
)
BARE = (
    "trainer.barebones=true: checkpoints, exports and figures are made by callbacks and loggers, "
    "which it shuts out. For speed give trainer.logger=false, trainer.enable_progress_bar=false "
    "and trainer.enable_model_summary=false"
)
TIMED = (
    "trainer.callbacks: Timer: its options can't be written into config.yaml. Give "
    "trainer.max_time, such as 00:12:00:00"
)


def check_flags(config: Any) -> None:
    """Refuses what can be known to be wrong by the flags alone.

    Args:
        config: Of a verb.

    Raises:
        InputError: If something is.
    """
    trainer = config.trainer
    if trainer.get("enable_checkpointing") is False:
        raise InputError(ALWAYS_SAVED)
    if trainer.get("barebones"):
        raise InputError(BARE)
    check_number("threads", config.threads, "threads")
    check_groups("model", config.model)
    for flag, value in flags(config):
        name = flag.rpartition(".")[2]
        if name == "class_path" and isinstance(value, str):
            check_class(flag.removesuffix(".class_path"), value)
        elif name == "num_workers":
            check_number(flag, value, "processes")


def check_groups(flag: str, config: Any) -> None:
    """Refuses null where a group of options stands, such as ``model.schedule``.

    Args:
        flag: That names the class.
        config: Its class and options.

    Raises:
        InputError: If there is one.
    """
    module, _, name = config.class_path.rpartition(".")
    hints = get_type_hints(getattr(import_module(module), name).__init__)
    for option, value in vars(config.init_args).items():
        if value is None and is_dataclass(hints.get(option)):
            raise InputError(
                f"--{flag}.{option}=null: it is a group of options; leave it out for their "
                f"defaults, or give one by one, as in --{flag}.{option}.NAME"
            )


def flags(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a configuration, within classes and lists too, by their flags.

    Args:
        config: Namespaces, dictionaries, lists, values.
        name: Of the flag that it is of.
    """
    if isinstance(config, Namespace | dict):
        inner = vars(config) if isinstance(config, Namespace) else config
        for key, value in inner.items():
            yield from flags(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    elif isinstance(config, list):
        for value in config:
            yield from flags(value, name)
    else:
        yield name, config


def check_number(flag: str, number: Any, of: str) -> None:
    """Refuses far more threads or processes than there are cores.

    Args:
        flag: Names it.
        number: How many; what is none is let pass.
        of: What it counts.

    Raises:
        InputError: If there are.
    """
    most = max(MOST, os.cpu_count() or 1)
    if isinstance(number, int) and number > most:
        raise InputError(
            f"--{flag}={number}: this machine has {os.cpu_count()} cores, and more {of} only get "
            f"in each other's way; give at most {most}"
        )


def check_class(flag: str, path: str) -> None:
    """Refuses what would be called in a class's place, before it is.

    Args:
        flag: That names it.
        path: Where Python finds it.

    Raises:
        InputError: If it is no class (nor a function that says which one it makes), or as an
            optimizer none of an optimizer.
    """
    if path.rpartition(".")[2] == "Timer" and flag == "trainer.callbacks":
        raise InputError(TIMED)
    module, _, name = path.rpartition(".")
    try:
        there = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):  # which is said in other words
        return
    made = there if inspect.isclass(there) else getattr(there, "__annotations__", {}).get("return")
    is_optimizer = flag.rpartition(".")[2] == "optimizer"
    if made is None or (
        is_optimizer and not (inspect.isclass(made) and issubclass(made, Optimizer))
    ):
        wanted = "an optimizer's class, such as torch.optim.AdamW" if is_optimizer else "a class"
        raise InputError(f"--{flag}={path}: this is none, and is not called; give {wanted}")


def expand_homes(config: Any) -> None:
    """Puts the home folder in place of ``~`` at the beginning of paths.

    Args:
        config: Of a verb; changed in place.
    """
    if isinstance(config, Namespace | dict):
        inner = vars(config) if isinstance(config, Namespace) else config
        for key, value in inner.items():
            if key in PATHS:
                inner[key] = expanded(value)
            expand_homes(inner[key])
    elif isinstance(config, list):
        for value in config:
            expand_homes(value)


def expanded(value: Any) -> Any:
    """A path with the home folder in place of ``~``; other values as they are.

    Args:
        value: Of a flag; of a list each.
    """
    if isinstance(value, list):
        return [expanded(one) for one in value]
    return os.path.expanduser(value) if isinstance(value, str) else value

"""A command's changes to its process, which are undone after it; only transformers stays quiet."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import LogRecord, getLogger

import torch

from detox_lightning.models.weight_files import warn_once

# warnings to hide: not actionable, or intended
HIDDEN_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*ended before the epoch ended and your dataloader is not resumable.*",
    ".*args parameter is intended to run from within Python.*",
    "The dirpath has changed from.*",
    "Checkpoint directory .* exists and is not empty.*",
    "Experiment logs directory .* exists and is not empty.*",
    "Using ModelCheckpoint with manual optimization and every_n_train_steps.*",
    "Detected call of `lr_scheduler.step.*",  # if the first rollouts are left out
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
)
# advertisements, and lines that this package words itself
HIDDEN_LOG_LINES = ("Tip: For seamless cloud", "Detected KeyboardInterrupt")
SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@contextmanager
def isolated() -> Iterator[None]:
    """Hides warnings in a block; restores seed and number of threads after it."""
    seeds = {name: os.environ[name] for name in SEED_VARIABLES if name in os.environ}
    threads = torch.get_num_threads()
    log = getLogger("lightning.pytorch.utilities.rank_zero")
    warn_once.cache_clear()  # each run prints its warnings
    with warnings.catch_warnings():
        for message in HIDDEN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        log.addFilter(_is_news)
        try:
            yield
        finally:
            log.removeFilter(_is_news)
            for name in SEED_VARIABLES:
                os.environ.pop(name, None)
            os.environ.update(seeds)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def quieten_transformers() -> None:
    """Hides transformers' advice and its progress bars, which last an instant."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _is_news(record: LogRecord) -> bool:
    """Returns whether a log line says something about this run."""
    return not any(line in record.getMessage() for line in HIDDEN_LOG_LINES)

"""Silences what libraries say that is no news of a run."""

import warnings
from logging import LogRecord, getLogger

# what users can do nothing about, and what is so on purpose
KNOWN_WARNINGS = (
    ".*is_gradient_checkpointing.*",
    ".*isinstance.treespec, LeafSpec.*",
    r"Found \d+ module\(s\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*ended before the epoch ended and your dataloader is not resumable.*",
    ".*args parameter is intended to run from within Python.*",
    "The dirpath has changed from.*",
    "Checkpoint directory .* exists and is not empty.*",
    "Experiment logs directory .* exists and is not empty.*",
    "Using ModelCheckpoint with manual optimization and every_n_train_steps.*",
    "Detected call of `lr_scheduler.step.*",  # where the first rollouts are left out
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
)


def quieten() -> None:
    """Silences advertisements and warnings of what is meant so."""
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)


def quieten_transformers() -> None:
    """Silences its advertisements and its bars of instants."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def is_no_advertisement(record: LogRecord) -> bool:
    """Whether a log line tells of this run, rather than of a product."""
    known = "Tip: For seamless cloud", "Detected KeyboardInterrupt"  # of that we tell ourselves
    return not any(told in record.getMessage() for told in known)

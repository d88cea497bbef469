"""A command's changes to its process, which are undone after it; only transformers stays quiet."""

import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, Handler, LogRecord, StreamHandler, getLogger
from typing import Any

import torch

from detox_lightning.models.model_files import warn_once

# warnings to hide: not actionable, or intended
HIDDEN_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
    "GPU available but not used.*",  # the CPU was asked for, or the GPU is Apple's
    "Total length of `list` across ranks is zero.*",  # a run without validation
    ".*ended before the epoch ended and your dataloader is not resumable.*",
    ".*args parameter is intended to run from within Python.*",
    "The dirpath has changed from.*",
    "Checkpoint directory .* exists and is not empty.*",
    "Experiment logs directory .* exists and is not empty.*",
    "Using ModelCheckpoint with manual optimization and every_n_train_steps.*",
    "Detected call of `lr_scheduler.step.*",  # if the first rollouts are left out
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    # One library calls another by an old name. The tests show it to those who can change a bound.
    "`is_gradient_checkpointing` is deprecated.*",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)
# advertisements, and lines that this package words itself
HIDDEN_LOG_LINES = (
    "Tip: For seamless cloud",
    "Detected KeyboardInterrupt",
    "GPU available: False",
    "You are using a CUDA device",  # that is --matmul_precision
    "TPU available: False",
    "HPU available: False",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` stopped: `max_",
)
MOST_TRIES, SECONDS_TO_CONNECT = 2, 5.0  # of reaching the hub
SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


class StandardError(StreamHandler[Any]):
    """Writes log lines to what ``sys.stderr`` is at that moment.

    A progress bar takes its place while it is on the screen, and shows above itself what is written
    there. It erases what is written past it.
    """

    stream = property(lambda self: sys.stderr, lambda self, stream: None)

    @classmethod
    def instead_of(cls, handler: Handler) -> Handler:
        """Takes the place of a handler that writes to what ``sys.stderr`` was at first."""
        if type(handler) is not StreamHandler:
            return handler
        new = cls()
        new.setLevel(handler.level)
        new.setFormatter(handler.formatter)
        return new


@contextmanager
def isolated() -> Iterator[None]:
    """Changes what is printed in a block; restores seed and number of threads after it."""
    seeds = {name: os.environ[name] for name in SEED_VARIABLES if name in os.environ}
    threads = torch.get_num_threads()
    log = getLogger("lightning.pytorch.utilities.rank_zero")
    warn_once.cache_clear()  # each run prints its warnings
    with warnings.catch_warnings(), _plain_lines():
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


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Multiplies float32 matrices with torch's ``precision`` of that name in a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _plain_lines() -> Iterator[None]:
    """Lets log lines pass a progress bar, and warnings begin with a sentence, in a block."""
    loggers = [getLogger(name) for name in ("lightning", "lightning.pytorch")]
    before = [logger.handlers for logger in loggers], warnings.formatwarning
    warnings.formatwarning = _warning_line
    for logger in loggers:
        logger.handlers = [StandardError.instead_of(handler) for handler in logger.handlers]
    try:
        yield
    finally:
        handlers, warnings.formatwarning = before
        for logger, kept in zip(loggers, handlers, strict=True):
            logger.handlers = kept


@contextmanager
def few_tries() -> Iterator[None]:
    """Asks the hub for a file twice in a block; if it doesn't answer, the cache is all there is.

    ``huggingface_hub`` asks a hub that is out of reach seven times a file, for up to a minute each.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import _http

    former, was_offline = _http._GLOBAL_CLIENT_FACTORY, constants.HF_HUB_OFFLINE
    left: float = MOST_TRIES

    def ask(request: Any) -> None:
        nonlocal left
        if not left:
            constants.HF_HUB_OFFLINE = True
            warn_once("the hub can't be reached: from here on, only its cache is read")
            raise OfflineModeIsEnabled(f"can't connect to {request.url.host}")
        left -= request.method == "HEAD"  # after a file
        request.extensions["timeout"]["connect"] = SECONDS_TO_CONNECT

    def answer(response: Any) -> None:
        nonlocal left
        left = math.inf

    def make_client() -> Any:
        client = former()
        client.event_hooks["request"].append(ask)
        client.event_hooks["response"].append(answer)
        return client

    _http.set_client_factory(make_client)
    try:
        yield
    finally:
        _http.set_client_factory(former)
        constants.HF_HUB_OFFLINE = was_offline


def _warning_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Returns a warning without the path and the line of the code that gave it."""
    return f"warning: {message}\n"


def quieten_transformers() -> None:
    """Hides transformers' advice and its progress bars, which last an instant."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("bitsandbytes").setLevel(ERROR)  # it asks for kernels that nothing here uses


def _is_news(record: LogRecord) -> bool:
    """Returns whether a log line says something about this run."""
    return not any(line in record.getMessage() for line in HIDDEN_LOG_LINES)

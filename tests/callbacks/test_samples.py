"""When a table of samples is logged, and that it stays a table."""

import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detox_lightning.callbacks.samples import SamplesCallback, markdown_table
from detox_lightning.rollout import Samples

HOSTILE = "a | b\n<script>alert('&')</script> `c` &lt;"


class Module:
    """What the callback sees of a module."""

    def __init__(self, rollouts: int, rows: int = 2):
        self.rollouts = rollouts
        numbers = range(rows)
        self.samples = Samples(
            [f"prompt {i}" for i in numbers], [HOSTILE for _ in numbers], [i / 8 for i in numbers]
        )


class Trainer:
    def __init__(self, *loggers: Any):
        self.loggers = list(loggers)


def logged(folder: Path, rollouts: range, **options: int) -> dict[int, str]:
    """Tables by rollout, as TensorBoard reads them."""
    logger, callback = TensorBoardLogger(folder), SamplesCallback(**options)
    trainer = Trainer(logger, CSVLogger(folder))  # the other one takes no text
    for done in rollouts:
        callback.on_train_batch_end(trainer, Module(done), None, None, done - 1)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, {"tensors": 0}).Reload()
    if "samples/text_summary" not in events.Tags()["tensors"]:
        return {}
    tensors = events.Tensors("samples/text_summary")
    return {event.step: event.tensor_proto.string_val[0].decode() for event in tensors}


@pytest.mark.parametrize(
    ("every", "steps"), [(5, [1, 5, 10]), (1, [*range(1, 13)]), (10, [1, 10]), (0, [])]
)
def test_after_the_first_rollout_and_every_n(tmp_path: Path, every: int, steps: list[int]) -> None:
    assert list(logged(tmp_path, range(1, 13), every_n_rollouts=every)) == steps


def test_as_many_rows_as_asked_for_and_there_are(tmp_path: Path) -> None:
    table = logged(tmp_path / "one", range(1, 2), count=1)[1]
    assert table.splitlines()[:2] == ["| prompt | response | score |", "|---|---|---|"]
    assert len(table.splitlines()) == 3
    assert len(logged(tmp_path / "more", range(1, 2), count=50)[1].splitlines()) == 4


def test_modules_without_samples_are_left_alone() -> None:
    SamplesCallback().on_train_batch_end(Trainer(), object(), None, None, 0)


def test_texts_cannot_leave_their_cell() -> None:
    table = markdown_table([("hello | you\n", HOSTILE, 0.12345), ("", "", -2.0)])
    assert table.splitlines() == [
        "| prompt | response | score |",
        "|---|---|---|",
        "| hello &#124; you | a &#124; b<br>&lt;script>alert('&amp;')&lt;/script> `c` &amp;lt; "
        "| 0.123 |",
        "|  |  | -2.000 |",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\x0b", "\x0c", "\x85"])
def test_every_kind_of_line_end_is_made_harmless(end: str) -> None:
    (*_, row) = markdown_table([(f"a{end}b", "c", 0.0)]).splitlines()
    assert re.fullmatch(r"\| a<br>b \| c \| 0\.000 \|", row)

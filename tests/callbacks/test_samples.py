"""When samples are logged, what of them and where, and that a table stays a table."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import call, create_autospec

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from detox_lightning.callbacks.samples import SamplesCallback, markdown_tables
from detox_lightning.protocols import Samples

HOSTILE = "a | b\n<script>alert('&')</script> `c` &lt;"
PROMPT = ["| prompt |", "|---|"]
HEAD = ["| response | score, tokens, kl |", "|---|---|"]


class Module:
    """What the callback sees of a module."""

    stage_name = "ppo"

    def __init__(self, rollouts: int, rows: int = 2):
        self.rollouts = rollouts
        numbers = range(rows)
        self.samples = Samples(
            [f"prompt {i}" for i in numbers],
            [HOSTILE for _ in numbers],
            [i / 8 - rollouts for i in numbers],
            [i + 3 for i in numbers],
            [i * 0.25 for i in numbers],
        )


class Trainer:
    def __init__(self, *loggers: Any):
        self.loggers = list(loggers)


def go(loggers: list[Any], rollouts: Iterable[int], rows: int = 2, **options: int) -> None:
    callback, trainer = SamplesCallback(**options), Trainer(*loggers)
    for done in rollouts:
        callback.on_train_batch_end(trainer, Module(done, rows), None, None, done - 1)


def logged(folder: Path, rollouts: Iterable[int], rows: int = 2, **options: int) -> Any:
    """What TensorBoard reads."""
    logger = TensorBoardLogger(folder)
    go([CSVLogger(folder), logger], rollouts, rows, **options)  # the first one takes nothing
    logger.finalize("success")
    return EventAccumulator(logger.log_dir, {"tensors": 0, "histograms": 0}).Reload()


def tables(events: Any) -> dict[int, list[str]]:
    """Lines of the tables by rollout."""
    tensors = events.Tensors("samples/text_summary")
    return {x.step: x.tensor_proto.string_val[0].decode().splitlines() for x in tensors}


@pytest.mark.parametrize(("every", "steps"), [(5, [1, 5, 10]), (1, [*range(1, 13)]), (10, [1, 10])])
def test_after_the_first_rollout_and_every_n(tmp_path: Path, every: int, steps: list[int]) -> None:
    events = logged(tmp_path, range(1, 13), every_n_rollouts=every)
    assert list(tables(events)) == steps
    for name in ("scores", "lengths", "kl"):
        assert [event.step for event in events.Histograms(f"rollout/{name}")] == steps


def test_never(tmp_path: Path) -> None:
    tags = logged(tmp_path, range(1, 13), every_n_rollouts=0).Tags()
    assert (tags["tensors"], tags["histograms"]) == ([], [])


def test_as_many_rows_as_asked_for_and_there_are(tmp_path: Path) -> None:
    table = tables(logged(tmp_path / "one", [1], count=1))[1]
    assert table[:2] == PROMPT
    assert table[4:6] == HEAD
    assert len(table) == 7
    assert tables(logged(tmp_path / "more", [1], count=50))[1].count(HEAD[0]) == 2


def test_histograms_are_of_all_responses(tmp_path: Path) -> None:
    events = logged(tmp_path, [1, 10], rows=5, count=1)
    spread = {
        name: [
            (x.num, x.min, x.max, x.sum)
            for x in (event.histogram_value for event in events.Histograms(f"rollout/{name}"))
        ]
        for name in ("scores", "lengths", "kl")
    }
    assert spread == {
        "scores": [(5, -1, -0.5, -3.75), (5, -10, -9.5, -48.75)],
        "lengths": [(5, 3, 7, 25)] * 2,
        "kl": [(5, 0, 1, 2.5)] * 2,
    }


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 1e20, -1e30, 9.5e19])
def test_scores_that_no_bin_holds_end_nothing(tmp_path: Path, score: float) -> None:
    logger = TensorBoardLogger(tmp_path)
    modules = [Module(1, rows=4), Module(1, rows=4)]
    modules[0].samples.scores[:] = [score] * 4
    modules[1].samples.scores[:] = [0.5, score, 1.5, score]
    modules[1].rollouts = 10
    for module in modules:
        SamplesCallback().on_train_batch_end(Trainer(logger), module, None, None, 0)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, {"tensors": 0, "histograms": 0}).Reload()
    shown = [(x.step, x.histogram_value) for x in events.Histograms("rollout/scores")]
    assert [(step, x.num, x.min, x.max, x.sum) for step, x in shown] == [(10, 2, 0.5, 1.5, 2.0)]
    assert [x.step for x in events.Histograms("rollout/kl")] == [1, 10]
    assert list(tables(events)) == [1, 10]


def test_loggers_that_take_tables_get_a_table() -> None:
    wandb = create_autospec(WandbLogger, instance=True)  # refuses arguments that it hasn't got
    wandb.experiment = object()
    go([wandb], [1, 2], every_n_rollouts=2)
    columns = ["prompt", "response", "score", "tokens", "kl"]
    assert wandb.log_text.mock_calls == [
        call(key="samples", columns=columns, data=rows, step=step)
        for step, rows in [
            (1, [["prompt 0", HOSTILE, -1.0, 3, 0.0], ["prompt 1", HOSTILE, -0.875, 4, 0.25]]),
            (2, [["prompt 0", HOSTILE, -2.0, 3, 0.0], ["prompt 1", HOSTILE, -1.875, 4, 0.25]]),
        ]
    ]


def test_modules_without_samples_are_left_alone() -> None:
    SamplesCallback().on_train_batch_end(Trainer(), object(), None, None, 0)


def test_texts_cannot_leave_their_cell() -> None:
    table = markdown_tables([("hello | you\n", HOSTILE, 0.12345, 9, -0.0625), ("", "", -2.0, 1, 3)])
    assert table.splitlines() == [
        *PROMPT,
        "| hello &#124; you |",
        "",
        *HEAD,
        "| a &#124; b<br>&#60;script&#62;alert('&#38;')&#60;/script&#62; &#96;c&#96; &#38;lt; "
        "| 0.123, 9, -0.062 |",
        "",
        *PROMPT,
        "|  |",
        "",
        *HEAD,
        "|  | -2.000, 1, 3.000 |",
    ]


def test_a_prompt_is_shown_once_for_its_responses() -> None:
    rows = [(prompt, answer, 0.5, 3, 0.25) for prompt, answer in ("pa", "pb", "qc", "pd")]
    page = markdown_to_safe_html(markdown_tables(rows))
    cells = [cell.text for cell in ElementTree.fromstring(f"<p>{page}</p>").findall(".//td")]
    figures = "0.500, 3, 0.250"
    assert cells == ["p", "a", figures, "b", figures, "q", "c", figures, "p", "d", figures]


@pytest.mark.parametrize(
    "text",
    [
        "one ` tick",  # with one in the next cell a bar between them would be code
        "![a picture](http://example.org/x.png)",
        "[a link](http://example.org) **bold** _slanted_ ~~gone~~",
        r"\* and \| &amp; <b>",
    ],
)
def test_tensorboard_shows_a_text_as_it_is(text: str) -> None:
    page = markdown_to_safe_html(markdown_tables([(text, text, 0.5, 9, 0.25)]))
    row = ElementTree.fromstring(f"<p>{page}</p>").findall(".//td")
    assert [cell.text for cell in row] == [text, text, "0.500, 9, 0.250"]
    assert [list(cell) for cell in row] == [[]] * 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\x0b", "\x0c", "\x85"])
def test_every_kind_of_line_end_is_made_harmless(end: str) -> None:
    lines = markdown_tables([(f"a{end}b", f"c{end}d", 0.0, 1, 0.5)]).splitlines()
    assert lines[2] == "| a<br>b |"
    assert lines[6:] == ["| c<br>d | 0.000, 1, 0.500 |"]

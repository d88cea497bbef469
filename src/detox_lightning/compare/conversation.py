"""Lets the model from before training and the trained one answer what the page asks."""

import json
import os
import signal
import sys
import traceback
import webbrowser
from dataclasses import replace
from threading import Thread
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.memory import is_oom_error

from detox_lightning.compare.page_server import PageServer
from detox_lightning.data.prompts import PromptDataModule
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.report.page import pieces, run_name, template

MAX_ROWS = 100  # rows of the data that can be chosen


class Conversation:
    """Answers questions with the policy and its reference, as ``test`` does."""

    def __init__(self, trainer: Trainer):
        """Takes the trainer of a command whose model, checkpoint and data are ready."""
        self.trainer = trainer
        self.stage: Any = trainer.lightning_module
        self.data: PromptDataModule = trainer.datamodule  # type: ignore[attr-defined]
        rows = self.data.rows(self.data.predict_split)
        self.rows: list[dict[str, Any]] = rows.select(range(min(len(rows), MAX_ROWS))).to_list()

    def hold(self, server: PageServer, open_browser: bool) -> None:
        """Serves the page until the process is asked to end."""
        self.stage.eval()
        self.stage.on_predict_start()  # warns if nothing is trained
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Lightning's only notes it
        if server.names is None:
            rank_zero_warn(f"everybody who can reach this machine can use {server.url}")
        rank_zero_info(f"The page is at {server.url} – Ctrl-C ends it")
        start, _, end = self.data.template.partition("{dialogue}")
        page = template("compare.html")(
            about={"checkpoint": self.trainer.ckpt_path, **self.stage.about},
            evaluator=self.stage.evaluator,
            kind=self.data.kind,
            name=run_name(self.trainer.ckpt_path),
            texts=[row["prompt"].removeprefix(start).removesuffix(end) for row in self.rows],
            token=server.token,
        )
        # without a desktop, Python would open a browser of the terminal
        has_desktop = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
        if open_browser and has_desktop:
            Thread(target=webbrowser.open, args=[server.url], daemon=True).start()
        server.serve(page, self.reply)

    def reply(self, question: bytes) -> dict[str, str]:
        """Answers a question, in JSON the arguments of ``_answer``; tells in a line what failed."""
        try:
            return {"html": self._answer(**json.loads(question))}
        except (InputError, TrainingError) as error:
            return {"error": str(error)}
        except Exception as error:
            if is_oom_error(error) or isinstance(error, MemoryError):
                return {"error": "out of memory: shorten the text, or ask for fewer samples"}
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: the terminal shows where it comes from"}

    @torch.no_grad()
    def _answer(self, text: str, row: int, samples: int, seed: int) -> str:
        """Returns the answers as HTML, the greedy one first; the text is that of a row or of 0."""
        evaluator = self.stage.evaluator
        evaluator.plan = replace(evaluator.plan, greedy=True, samples=samples, best_of=None)
        evaluator.seed = seed
        if not text.strip():
            raise InputError(f"there is no text to answer; give a {self.data.kind}")
        rows = [self.rows[row - 1]] if row else self.data.encode_texts([text], self.stage)
        batch = self.trainer.strategy.batch_to_device(self.data.batch_of(rows))
        with self.trainer.precision_plugin.predict_step_context():
            toxicity = evaluator.judge.toxicity
            return template("compare_answers.html")(
                rows=evaluator.compare(batch).comparison.rows(),
                mark=lambda text: pieces(text, toxicity.minded_words(text) if toxicity else []),
                is_cut=rows[0]["cut"],
                data=self.data,
                seed=seed,
            )

"""Measures the overhead of a rollout step, and the gain from a second process.

    python benchmarks/overhead.py [--rollouts 5] [--tokens 32] [--processes 1 2]

Trains a random model of FLAN-T5-small's shape on the demo's dialogues by the command line, with its
logger and callbacks, on one CPU thread per process. Work is encoding, generation, scoring, forward
and backward passes and optimizer steps. All other time between the starts of two rollouts is
overhead: loading data, advantages, losses, clipping, collectives, metrics, logging, Lightning.
Prints medians over rollouts, in wall time and in CPU time, which other programs hardly disturb.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import ClassifierReward

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WORK = {
    "encode": (Policy, "encode_prompts"),
    "generate": (Policy, "generate"),
    "score": (ClassifierReward, "forward"),
    "forward": (Policy, "forward"),
    "backward": (Tensor, "backward"),
    "step": (torch.optim.Adam, "step"),
}
BATCH, MINI_BATCH = 8, 4

spent: dict[str, Counter[str]] = {clock: Counter() for clock in CLOCKS}


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that its time is added to ``spent`` under a name."""

    def timing(*args: Any, **kwargs: Any) -> Any:
        starts = {clock: now() for clock, now in CLOCKS.items()}
        try:
            return function(*args, **kwargs)
        finally:
            for clock, now in CLOCKS.items():
                spent[clock][name] += now() - starts[clock]

    return timing


class Rounds(Callback):
    """Records the times of each rollout, from its start to the start of the next one."""

    def __init__(self) -> None:
        self.begin: dict[str, float] = {}
        self.rows: list[dict[str, dict[str, float]]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Ends a round and begins the next one."""
        now = {clock: read() for clock, read in CLOCKS.items()}
        if self.begin:
            row = {
                clock: {"total": now[clock] - self.begin[clock], **spent[clock]} for clock in now
            }
            self.rows.append(row)
        self.begin = now
        for clock in spent.values():
            clock.clear()


def build(folder: Path) -> None:
    """Saves a random model of FLAN-T5-small's shape, with the demo's tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=32128,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_decoder_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    # transformers ties the head of a model made from a config, whatever the config says
    model.lm_head.weight = torch.nn.Parameter(torch.randn(32128, 512) * 512**-0.5)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder / "model")
    load_tokenizer("demo:policy").save_pretrained(folder / "model")


def train(folder: Path, processes: int, rollouts: int, tokens: int) -> None:
    """Trains in this process and in those that Lightning starts; the first writes the times."""
    from detox_lightning.cli.command import DetoxCLI

    torch.set_num_threads(1)
    for name, (owner, attribute) in WORK.items():
        found = owner.__dict__[attribute]
        if isinstance(found, property):
            setattr(owner, attribute, property(timed(name, found.fget)))
        else:
            setattr(owner, attribute, timed(name, found))
    rounds = Rounds()
    DetoxCLI(
        [
            "fit",
            "--threads=1",
            "--model=PPOModule",
            f"--model.policy={folder}/model",
            "--model.reward=ClassifierReward",
            "--model.reward.model=demo:classifier",
            f"--model.sampling={{max_new_tokens: {tokens}, min_new_tokens: {tokens}}}",
            f"--model.mini_batch_size={MINI_BATCH}",
            "--model.ppo_epochs=1",
            "--data=DialogueDataModule",
            "--data.source=demo:dialogues",
            "--data.min_chars=null",
            "--data.max_chars=null",
            "--data.validation_split=null",
            f"--data.batch_size={BATCH}",
            f"--trainer.devices={processes}",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            f"--trainer.limit_train_batches={rollouts + 2}",
            f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}",
            f"--trainer.logger.init_args.save_dir={folder}/runs{processes}",
            "--trainer.enable_progress_bar=false",
        ],
        callbacks=[rounds],
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        # the first round also warms up
        (folder / f"rows{processes}.json").write_text(json.dumps(rounds.rows[1:]))


def share(rows: list[dict[str, dict[str, float]]], clock: str, part: str) -> float:
    """Returns the median share of a rollout that one part takes, or the overhead."""

    def one(row: dict[str, float]) -> float:
        work = sum(row.get(name, 0) for name in WORK)
        return (row["total"] - work if part == "overhead" else row.get(part, 0)) / row["total"]

    return median(one(row[clock]) for row in rows)


def show(folder: Path, processes: list[int]) -> None:
    """Prints a row for each number of processes and each clock."""
    parts = [*WORK, "overhead"]
    print(f"{'processes':>9} {'clock':>5} {'s/rollout':>9}", *(f"{part:>8}" for part in parts))
    rates = {}
    for count in processes:
        rows = json.loads((folder / f"rows{count}.json").read_text())
        for clock in CLOCKS:
            seconds = median(row[clock]["total"] for row in rows)
            rates[count, clock] = count * BATCH / seconds
            shares = (f"{share(rows, clock, part):8.1%}" for part in parts)
            print(f"{count:9} {clock:>5} {seconds:9.2f}", *shares)
    for count in processes[1:]:
        for clock in CLOCKS:
            gain = rates[count, clock] / rates[processes[0], clock]
            efficiency = gain / count * processes[0]
            print(
                f"{count} processes, {clock} clock: {gain:.2f} × the responses a second of "
                f"{processes[0]}, efficiency {efficiency:.0%}"
            )


def main() -> None:
    """Runs one training for each number of processes, and compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="internal: folder of a single training")
    options = parser.parse_args()
    if options.folder is not None:
        return train(options.folder, options.processes[0], options.rollouts, options.tokens)
    with tempfile.TemporaryDirectory() as name:
        build(Path(name))
        for count in options.processes:
            words = [f"--folder={name}", f"--rollouts={options.rollouts}"]
            words += [f"--tokens={options.tokens}", "--processes", str(count)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, __file__, *words], check=True, env=environment)
        show(Path(name), options.processes)


if __name__ == "__main__":
    main()

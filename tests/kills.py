"""Runs that are killed again and again, and what comes of them.

    python tests/kills.py --runs 20 --processes 1

trains a tiny model without interruption, then as often as is asked for with kills (SIGKILL) at
random moments, each time going on with ``--ckpt_path last``, and compares weights, optimizer,
controller, curves and exported files, bit for bit. ``--stage supervised`` and ``reward`` do it for
the other stages. Exits with 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import peft  # noqa: F401  (so that the processes that are forked have it)
import torch
import torch.utils.tensorboard
import transformers
import yaml
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing import event_accumulator

import detox_lightning.cli.command  # noqa: F401
from command import tiny_recipe
from conftest import NAMES, save_classifier, tiny_t5_model, word_tokenizer
from detox_lightning.__main__ import main

MOMENTS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir"}
SHORT = ["--checkpoint.every_n_batches=2", "--trainer.max_epochs=2"]
FLAGS = {
    "ppo": [
        *SHORT,
        "--trainer.limit_train_batches=3",
        "--model.scores={scale: true, normalize: true}",
        "--model.kl={target: 0.1, horizon: 100}",
        "--model.schedule.name=linear",
        "--samples.every_n_rollouts=1",
    ],
    "supervised": [
        *SHORT,
        "--trainer.val_check_interval=1",
        "--trainer.accumulate_grad_batches=2",
    ],
    "reward": [*SHORT, "--checkpoint.monitor=val/loss"],
}


# -- one run


class Clock:
    """Counts moments of a run, and sends its process a signal at one of them."""

    def __init__(self, folder: Path, last: int | None, signum: int):
        self.folder, self.last, self.signum, self.now = str(folder), last, signum, 0

    def tick(self) -> None:
        self.now += 1
        if self.now == self.last:
            signal.raise_signal(self.signum)

    def start(self) -> None:
        """A moment before and after each hook, step and sync, and before each file operation."""
        for owner, name in [
            (call, "_call_callback_hooks"),
            (call, "_call_lightning_module_hook"),
            (call, "_call_strategy_hook"),
            (torch.optim.Adam, "step"),
            (torch, "save"),
            (os, "fsync"),
        ]:
            setattr(owner, name, self.around(getattr(owner, name)))
        sys.addaudithook(self.heard)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def ticking(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return ticking

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and event in MOMENTS and str(args[0]).startswith(self.folder):
            self.tick()


def start(
    folder: Path, words: list[str], last: int | None, signum: int, place: dict[str, str]
) -> int:
    """Begins a command in a process of its own, whose number it gives.

    Args:
        folder: Where it may write.
        words: Of the command line.
        last: The moment at which it gets a signal; None: never.
        signum: Which.
        place: Environment variables that tell which of several processes this is.
    """
    if child := os.fork():
        return child
    code = 1
    try:
        rank = int(place.get("RANK", 0))
        log = os.open(folder / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(place)
        rank_zero_only.rank = rank
        sys.argv[1:] = words
        clock = Clock(folder, last, signum)
        clock.start()
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        (folder / f"moments{rank}").write_text(str(clock.now))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(
    folder: Path,
    words: list[str],
    processes: int = 1,
    last: int | None = None,
    signum: int = signal.SIGKILL,
    dying: int = 0,
) -> int:
    """Runs a command in one or several processes to its end, or to its death.

    Args:
        folder: Where it may write.
        words: Of the command line.
        processes: How many.
        last: The moment at which one of them gets a signal; if it dies of it, the others are
            killed after it. None: never.
        signum: The signal.
        dying: Which of the processes.

    Returns:
        The exit code, negative for a signal.
    """
    places: list[dict[str, str]] = [{}]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        places = [
            {
                "TORCHELASTIC_RUN_ID": "kills",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "GROUP_RANK": "0",
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
            }
            for rank in range(processes)
        ]
    alive = {
        start(folder, words, last if rank == dying else None, signum, place)
        for rank, place in enumerate(places)
    }
    code = 0
    while alive:
        child, status = os.wait()
        alive.discard(child)
        ended = os.waitstatus_to_exitcode(status)
        code = code or ended
        if ended < 0:
            for other in alive:
                os.kill(other, signal.SIGKILL)
    return code


# -- a run without end, and what came of it


def build(folder: Path) -> Path:
    """Makes models and data, and a recipe whose path it gives."""
    policy, classifier = folder / "t5", folder / "classifier"
    tiny_t5_model().save_pretrained(policy)
    word_tokenizer().save_pretrained(policy)
    save_classifier(classifier, ["nothate", "hate"])
    recipe = Path(tiny_recipe(folder, str(policy), str(classifier)))
    lines = "".join(
        json.dumps(
            {"text": f"{name} is {label}", "label": "hate" if label == "rude" else "nothate"}
        )
        + "\n"
        for name in NAMES
        for label in ("kind", "rude", "nice")
    )
    for split in ("train", "validation"):
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{split}.jsonl").write_text(lines)
    return recipe


def prepare(folder: Path, recipe: Path, plan: "Plan") -> list[str]:
    """Writes a run's configuration into its folder, and gives its command."""
    config, world = yaml.safe_load(recipe.read_text()), recipe.parent
    if plan.stage != "ppo":
        model = str(world / ("t5" if plan.stage == "supervised" else "classifier"))
        name = f"{plan.stage.capitalize()}Module"
        config["model"] = {"class_path": name, "init_args": {"model": model}}
    if plan.stage == "supervised":
        config["model"]["init_args"] |= {"lora": {"r": 4, "dropout": 0.2}, "max_new_tokens": 6}
    if plan.stage == "reward":
        options = {"source": str(world / "labels"), "max_tokens": 16}
        config["data"] = {"class_path": "LabeledTextDataModule", "init_args": options}
    config["data"]["init_args"]["batch_size"] = 8 // plan.processes
    del config["trainer"]["limit_train_batches"]
    config["trainer"]["logger"] = [
        {"class_path": name, "init_args": {"save_dir": str(folder / place), "name": "tiny"}}
        for name, place in [("TensorBoardLogger", "runs"), ("CSVLogger", "csv")]
    ]
    if plan.processes > 1:
        config["trainer"] |= {"devices": plan.processes, "strategy": "ddp"}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(folder / "run.yaml"), *FLAGS[plan.stage], "--ckpt_path", "last"]


def outcome(folder: Path) -> dict[str, Any]:
    """What a run left: state, curves as TensorBoard shows them, rows of the CSV, exported files."""
    (folder_of_run,) = (folder / "runs" / "tiny").iterdir()
    checkpoint = torch.load(folder_of_run / "checkpoints" / "last.ckpt", weights_only=True)
    places = [f"{name}Module" for name in ("DialogueData", "LabeledTextData")]
    kept = ["state_dict", "optimizer_states", "lr_schedulers", "detox_lightning", "global_step"]
    state = {key: checkpoint.get(key) for key in [*kept, "loops", "validation", *places]}
    state["loops"] = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    event_accumulator.logger.setLevel("ERROR")
    events = event_accumulator.EventAccumulator(str(folder_of_run), {"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    curves = {name: [(x.step, x.value) for x in events.Scalars(name)] for name in names}
    (table,) = (folder / "csv" / "tiny").glob("*/metrics.csv")
    exported = next(x for x in (folder_of_run / "adapter", folder_of_run / "model") if x.is_dir())
    files = {file.name: file.read_bytes() for file in exported.iterdir()}
    del files["README.md"]  # tells the time
    return {
        "state": plainly(state, folder),
        "curves": {name: [(x, repr(y)) for x, y in points] for name, points in curves.items()},
        "rows": rows(table),
        "files": files,
        "names": sorted(x.name for x in folder_of_run.iterdir() if "tfevents" not in x.name),
        "checkpoints": sorted(x.name for x in (folder_of_run / "checkpoints").iterdir()),
    }


def rows(table: Path) -> list[dict[str, str]]:
    """The cells of a CSV that don't tell the time."""
    head, *lines = (line.split(",") for line in table.read_text().splitlines())
    cells = [dict(zip(head, line, strict=True)) for line in lines]
    return [
        {name: cell for name, cell in row.items() if cell and not name.startswith("time/")}
        for row in cells
    ]


def plainly(value: Any, folder: Path) -> Any:
    """State that ``==`` compares bit for bit, wherever the run was."""
    if isinstance(value, dict):
        return {str(key): plainly(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(item, folder) for item in value]
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.contiguous().numpy().tobytes()
    return repr(value).replace(str(folder), "")


def differences(ours: Any, other: Any, name: str = "") -> list[str]:
    """Where two outcomes differ."""
    if isinstance(ours, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted({*ours, *other})
            for line in differences(ours.get(key), other.get(key), f"{name}/{key}")
        ]
    return [] if ours == other else [f"{name}: {str(ours)[:300]} != {str(other)[:300]}"]


class Plan(NamedTuple):
    """What is done to a run: signals at random moments, to a random one of its processes."""

    stage: str = "ppo"
    processes: int = 1
    kills: int = 3
    signals: tuple[int, ...] = (signal.SIGKILL,)  # in turn


def must_end(folder: Path, words: list[str], plan: Plan) -> None:
    """Lets a run come to its end."""
    if code := run(folder, words, plan.processes):
        raise RuntimeError(f"exit code {code}: {(folder / 'log0.txt').read_text()[-3000:]}")


def killed(folder: Path, words: list[str], plan: Plan, moments: int, seed: int) -> str:
    """Kills a run some times, and lets it come to its end.

    Returns:
        At which moments of how many.
    """
    draw = random.Random(seed)
    told = []
    for number in range(plan.kills):
        signum = plan.signals[number % len(plan.signals)]
        last, dying = draw.randint(1, moments), draw.randrange(plan.processes)
        code = run(folder, words, plan.processes, last, signum, dying)
        told.append(f"{last}" + (f" of rank {dying}" if plan.processes > 1 else ""))
        if code == 0:
            told[-1] += " (had ended)"
        elif code not in (-signum, 128 + signum):
            raise RuntimeError(f"exit code {code}: {(folder / 'log0.txt').read_text()[-3000:]}")
    must_end(folder, words, plan)
    return f"killed at {', '.join(told)} of {moments}"


def compare(base: Path, plan: Plan, runs: int, seed: int) -> int:
    """Does everything, and says how it went.

    Returns:
        How many of the runs differ from the uninterrupted one.
    """
    whole, world = base / "whole", base / "world"
    whole.mkdir(parents=True)
    world.mkdir()
    recipe = build(world)
    must_end(whole, prepare(whole, recipe, plan), plan)
    moments = int((whole / "moments0").read_text())
    expected, differing = outcome(whole), 0
    for number in range(runs):
        folder = base / f"run{number}"
        folder.mkdir()
        told = killed(folder, prepare(folder, recipe, plan), plan, moments, seed + number)
        wrong = differences(expected, outcome(folder))
        differing += bool(wrong)
        print(f"run {number}: {told}: {'differs' if wrong else 'equal'}", *wrong, sep="\n  ")
        sys.stdout.flush()
    return differing


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--signals", nargs="+", default=["SIGKILL"], help="in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--stage", choices=list(FLAGS), default="ppo")
    parser.add_argument("--folder", type=Path, help="where to; it stays")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = parsed()
    signals = tuple(signal.Signals[name] for name in options.signals)
    plan = Plan(options.stage, options.processes, options.kills, signals)
    with tempfile.TemporaryDirectory() as temporary:
        base = (options.folder or Path(temporary)).resolve()
        os.environ["HF_DATASETS_CACHE"] = str(base / "cache")
        datasets.config.HF_DATASETS_CACHE = base / "cache"
        transformers.logging.set_verbosity_error()
        differing = compare(base, plan, options.runs, options.seed)
    equal = options.runs - differing
    print(f"{equal} of {options.runs} runs are the uninterrupted one, bit for bit")
    sys.exit(bool(differing))

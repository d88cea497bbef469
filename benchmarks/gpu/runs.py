"""Runs of ``fit`` by the command line: times, memory, waits, the first ratio, resuming."""

import json
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from growth.point import Rows
from lightning.pytorch import Callback
from peer.rounds import with_rates

from detox_lightning.cli.command import DetoxCLI
from gpu.bench import PRECISIONS, Bench
from gpu.report import Row, Table
from gpu.shapes import Model

LABELS = {"model": "model", "precision": "precision", "rows": "batch"}
PARTS = ("rollout", "score", "update", "total")
ROLLOUTS = Table(
    "Seconds of a rollout",
    {
        **LABELS,
        "rollout": "rollout",
        "score": "score",
        "update": "update",
        "total": "all",
        "tokens_per_second": "tokens/s",
        "peak_mb": "peak memory, MB",
        "formula_mb": "by docs/memory.md",
        "left_mb": "left afterwards, MB",
    },
)
UPDATE = Table(
    "Waits of the host for the GPU, and the first ratio",
    {
        **LABELS,
        "a_rollout": "waits a rollout",
        "a_mini_batch": "waits a mini-batch",
        "ratio": "first ratio - 1",
        "kl": "its KL, nats a token",
    },
)
RESUME = Table(
    "A resumed run against the uninterrupted one",
    {
        "model": "model",
        "deterministic": "deterministic",
        "equal": "equal to the bit",
        "apart": "weights apart",
        "moved": "moved by training",
    },
)
SYNCHRONIZES = "synchronizing CUDA operation"  # torch's warning
EPOCHS = (1, 3)  # what the second run waits for more is that of its further mini-batches
ROUNDS = 3  # of these, the last counts: the others capture steps
RATE = 1e-3  # so that differences show
RESUMED = 2  # rollouts before and after a resume


def fit(
    bench: Bench,
    model: Model,
    precision: str,
    rows: int,
    *flags: str,
    callback: Callback | None = None,
    **more: Any,
) -> Any:
    """Runs ``fit`` in this process, and returns the module that it trained.

    Args:
        bench: The device, and the models on the disk.
        model: The model.
        precision: A key of :data:`PRECISIONS`.
        rows: Responses of a rollout.
        flags: Further words of the command line.
        callback: Takes figures while it trains.
        more: Fields of the job, see ``benchmarks/peer.py``.
    """
    import ours

    folder = bench.world(model)
    job = {
        "folder": str(folder),
        "device": bench.device.type,
        "dtype": PRECISIONS[precision],
        "threads": torch.get_num_threads(),
        "batch_size": rows,
        "mini_batch_size": bench.scale.batches[rows],
        "ppo_epochs": 1,
        "new_tokens": bench.scale.tokens,
        "rounds": bench.scale.rollouts[rows],
        **more,
    }
    file = folder / "fit.yaml"
    file.write_text(json.dumps(ours.config(job)), encoding="utf8")
    adapted = f"--model.lora.target_modules={json.dumps(model.adapted)}"
    words = ["fit", f"--config={file}", adapted, *flags]
    return DetoxCLI(words, callbacks=[callback] if callback else []).model


def rollouts(bench: Bench, model: Model, precision: str, rows: int) -> Row:
    """Measures rollouts, of which the first one warms up, and what they leave on a GPU."""
    import ours

    bench.free()
    before, channel = bench.held_mb(), Rows()
    rounds = ours.Rounds(channel, bench.device.type)
    module = fit(bench, model, precision, rows, callback=rounds)
    rounds.adapter.before.clear()
    after = bench.held_mb()  # the module is still there, on the CPU
    for each in channel.rows:
        del each["prompts"]
    row: dict[str, Any] = {"every": channel.rows, "formula_mb": None}
    if model is bench.scale.t5 and precision == "bf16-mixed":  # what the formulas are for
        row["formula_mb"] = formula(bench, module, rows) / 2**20
    kept = [with_rates(each) for each in channel.rows[1:]]
    for name in (*PARTS, "tokens_per_second"):
        row[name] = median(each[name] for each in kept)
    row["peak_mb"] = max(each["peak_mb"] for each in kept)
    row["left_mb"] = None if before is None or after is None else after - before
    return row


def formula(bench: Bench, module: Any, rows: int) -> float:
    """The peak that the formulas of docs/memory.py give for a run, in bytes."""
    import memory

    n = memory.sizes(module.policy)
    prompt, response = bench.scale.prompt[1], bench.scale.tokens
    classifier = sum(p.nbytes for p in module.reward.classifier.model.parameters())
    always = n.base * memory.BF16 + n.learning * memory.LEARNING + classifier
    sampling = memory.rollout(n, rows, prompt, response, captured=True)
    learning = memory.update(n, bench.scale.batches[rows], prompt, response, False)
    return always + max(sampling, memory.room(n, rows, prompt, response) + learning)


class Waits(Callback):
    """Counts what makes the host wait for the GPU, and takes the figures of each rollout.

    Attributes:
        counts: The waits of each rollout by file and line.
        figures: The metrics of each rollout.
    """

    def __init__(self) -> None:
        self.counts: list[Counter[str]] = []
        self.figures: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, place: int) -> None:
        """Begins to count, on a GPU."""
        self.block = ExitStack()
        self.told = self.block.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        if module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
            self.block.callback(torch.cuda.set_sync_debug_mode, "default")

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, place: int
    ) -> None:
        """Ends the count of a rollout."""
        self.block.close()
        found = [each for each in self.told if SYNCHRONIZES in str(each.message)]
        self.counts.append(Counter(f"{Path(x.filename).name}:{x.lineno}" for x in found))
        self.figures.append({name: float(x) for name, x in trainer.callback_metrics.items()})


def update(bench: Bench, model: Model, precision: str, rows: int) -> Row:
    """Counts waits in runs of one and of several epochs, whose learning rate is 0.

    So each mini-batch's ratio is a first one.
    """
    bench.free()
    counts, mini_batches = [], rows // bench.scale.batches[rows]
    for epochs in EPOCHS:
        waits = Waits()
        still = "--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0"
        fit(bench, model, precision, rows, *still, callback=waits, ppo_epochs=epochs, rounds=ROUNDS)
        counts.append(waits.counts[-1])
    once, more = (found.total() for found in counts)
    each = (more - once) / (mini_batches * (EPOCHS[1] - EPOCHS[0]))
    on_gpu = bench.device.type == "cuda"
    first = waits.figures[0]
    return {
        "a_rollout": once - each * mini_batches if on_gpu else None,
        "a_mini_batch": each if on_gpu else None,
        "ratio": first["ppo/policy/ratio"] - 1,
        "kl": first["ppo/policy/approxkl"],
        "where": dict(counts[0].most_common()),
    }


def resume(bench: Bench, model: Model, deterministic: bool) -> Row:
    """Compares two epochs in one run with an epoch and another one that resumes."""
    bench.free()
    rows = min(bench.scale.batches)
    place = bench.world(model) / f"resume-{deterministic}"
    common = [
        "--model.optimizer=torch.optim.Adam",
        f"--model.optimizer.lr={RATE}",
        f"--trainer.deterministic={str(deterministic).lower()}",
    ]

    def weights(name: str, epochs: int, *flags: str) -> dict[str, torch.Tensor]:
        words = [f"--trainer.max_epochs={epochs}", *flags]
        words.append(f"--trainer.logger.init_args.save_dir={place / name}")
        module = fit(bench, model, "float32", rows, *common, *words, rounds=RESUMED)
        trained = [(key, x) for key, x in module.policy.named_parameters() if x.requires_grad]
        return {key: x.detach().cpu().clone() for key, x in trained}

    try:
        whole = weights("whole", 2)
        weights("half", 1)
        (last,) = (place / "half").rglob("last.ckpt")
        resumed = weights("resumed", 2, f"--ckpt_path={last}")
    finally:
        torch.use_deterministic_algorithms(False)
    return {
        "equal": all(torch.equal(whole[key], resumed[key]) for key in whole),
        "apart": max(float((whole[key] - resumed[key]).abs().max()) for key in whole),
        "moved": max(float(x.abs().max()) for key, x in whole.items() if "lora_B" in key),
    }

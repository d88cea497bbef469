"""Rounds of TRL 0.8.6 on the same work, in an environment of its own."""

import sys
from contextlib import ExitStack
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peer.rounds import OURS, differences, ratios, with_rates

from gpu.bench import PRECISIONS, Bench
from gpu.report import Row, Table

COMMAND = Path(__file__).parents[1] / "peer.py"
PEER = Table(
    "Against TRL 0.8.6",
    {
        "way": "TRL samples",
        "precision": "precision",
        "rows": "batch",
        "ours": "ours, s",
        "theirs": "TRL, s",
        "rollout": "× rollout",
        "score": "× score",
        "update": "× update",
        "total": "× all",
        "memory": "our memory / TRL's",
    },
)
WARM_UP = {"batch": 1, "single": 0}  # rounds: one at a time, the first prompts warm up enough


def command() -> ModuleType:
    """The program ``benchmarks/peer.py``, whose name its folder has as well."""
    spec = util.spec_from_file_location("peer_command", COMMAND)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(bench: Bench, way: str, precision: str, rows: int) -> Row:
    """Measures a round of both sides, after one of ours and up to one of the peer's.

    Args:
        bench: The device, and the models on the disk.
        way: How the peer samples: ``batch`` or ``single``.
        precision: A key of :data:`PRECISIONS`.
        rows: Responses of a rollout.
    """
    bench.free()
    model = bench.scale.t5
    job = {
        "folder": str(bench.world(model)),
        "device": bench.device.type,
        "dtype": PRECISIONS[precision],
        "threads": torch.get_num_threads(),
        "batch_size": rows,
        "mini_batch_size": bench.scale.batches[rows],
        "micro_batch_size": None,
        "ppo_epochs": 1,
        "new_tokens": bench.scale.tokens,
        "rounds": 2,
    }
    each: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        side = command().Side
        ours = stack.enter_context(side(OURS, Path(sys.executable), job))
        theirs = side(f"TRL {way}", bench.peer_python, {**job, "generate": way})
        stack.enter_context(theirs)
        for number in range(job["rounds"]):
            row = ours.round()
            prompts = row.pop("prompts")
            if number + 1 == job["rounds"] or number < WARM_UP[way]:
                each = {OURS: row, theirs.name: theirs.round(prompts=prompts)}
    each = {name: with_rates(row) for name, row in each.items()}
    times = ratios([each], theirs.name)
    wrong = differences([each], rows, bench.scale.tokens, model.shape.vocabulary)
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return {
        "ours": each[OURS]["total"],
        "theirs": each[theirs.name]["total"],
        **{part: times[part] for part in ("rollout", "score", "update", "total")},
        "memory": 1 / times["peak_mb"],
        "every": each,
    }

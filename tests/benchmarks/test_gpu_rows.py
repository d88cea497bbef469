"""The rows of the benchmark of a GPU: measured on a CPU, and by hand."""

import importlib
import json
import math
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from detox_lightning.models.policy import Policy


def test_a_step_reads_the_decoders_weights_but_not_what_reads_the_prompts(
    parts: SimpleNamespace, bench: Any
) -> None:
    policy = bench.policy(parts.shapes.DRY.t5, "float32")
    prompts = policy.encode_prompts(*bench.prompts(policy, 2))
    read = parts.steps.bytes_read(policy, prompts)
    expected = 0
    for name, weight in policy.base.named_parameters():
        of_prompts = "EncDecAttention.k" in name or "EncDecAttention.v" in name
        of_decoder = name.startswith(("decoder.", "lm_head")) and "lora" not in name
        if of_decoder and not of_prompts and "embed" not in name and "bias" not in name:
            expected += weight.nbytes
    assert read == expected > 4 * 200 * 16  # the head alone


def test_without_merging_the_adapters_do_not_count(parts: SimpleNamespace, bench: Any) -> None:
    policy = bench.policy(parts.shapes.DRY.llama, "bf16-mixed")
    with parts.bench.computing(torch.device("cpu"), "bf16-mixed"):
        prompts = policy.encode_prompts(*bench.prompts(policy, 2))
        read = parts.steps.bytes_read(policy, prompts)
    # the head is the embeddings' weight, and belongs to no layer
    named = policy.base.named_parameters()
    assert read == sum(p.nbytes for name, p in named if "lora_" not in name)


@pytest.mark.parametrize("model", ["t5", "llama"])
def test_captured_steps_are_found_equal(parts: SimpleNamespace, bench: Any, model: str) -> None:
    row = parts.steps.equality(bench, getattr(parts.shapes.DRY, model), "float32", 4)
    assert row["apart"] < 1e-5
    assert (row["tokens"], row["again"], row["base"]) == (1, True, True)


def test_other_tokens_and_a_base_that_moves_are_found(
    parts: SimpleNamespace, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second response lacks its last token's equality, and a weight is written to."""
    policy, real = bench.policy(parts.shapes.DRY.t5, "float32"), Policy.generate
    calls: list[int] = []

    def generate(self: Policy, *args: Any) -> Any:
        decoded = real(self, *args)
        calls.append(1)
        if len(calls) == 2:
            decoded.ids[:, -1] += 1
            self.base.lm_head.weight.data[0, 0] += 1
        return decoded

    before = policy.base.lm_head.weight.detach().clone()
    monkeypatch.setattr(Policy, "generate", generate)
    row = parts.steps.equality(bench, parts.shapes.DRY.t5, "float32", 2)
    policy.base.lm_head.weight.data.copy_(before)
    assert row["tokens"] == pytest.approx(5 / 6)
    assert (row["again"], row["base"]) == (False, False)


def test_a_step_is_a_long_response_minus_a_short_one(
    parts: SimpleNamespace, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that ticks once for each forward pass: of stock steps too, whatever is first."""
    ticks = [0]
    policy = bench.policy(parts.shapes.DRY.t5, "float32")
    hook = policy.base.decoder.register_forward_pre_hook(lambda *_: ticks.append(1))
    monkeypatch.setattr(parts.bench.Bench, "now", lambda self: 0.25 * len(ticks))
    bench.bandwidth = 1e6
    row = parts.steps.step(bench, parts.shapes.DRY.t5, "float32", 2)
    hook.remove()
    del bench.bandwidth
    assert row["stock"] == row["plain"] == row["captured"] == row["drawn"] == 250
    assert row["first"] == 0
    assert row["read"] == pytest.approx(row["bytes"] / 1e3)
    assert row["times"] == pytest.approx(250 / row["read"])


def test_a_rollout_has_times_memory_and_the_formulas_memory(
    parts: SimpleNamespace, bench: Any
) -> None:
    row = parts.runs.rollouts(bench, parts.shapes.DRY.t5, "bf16-mixed", 2)
    assert 0 < row["rollout"] + row["score"] + row["update"] <= row["total"]
    assert row["tokens_per_second"] == pytest.approx(2 * 6 / row["total"])
    assert row["peak_mb"] > 50
    assert row["formula_mb"] > 0.05
    assert row["left_mb"] is None  # a CPU
    assert len(row["every"]) == 2
    json.dumps(row)


def test_memory_is_that_of_the_page(parts: SimpleNamespace) -> None:
    memory = importlib.import_module("memory")
    policy = memory.make_policy("meta", **memory.SHAPES["FLAN-T5-XL"])
    classifier = torch.nn.Linear(500, 1000, bias=False, device="meta")
    reward = SimpleNamespace(classifier=SimpleNamespace(model=classifier))
    scale = SimpleNamespace(prompt=(1, 512), tokens=150, batches={8: 4, 64: 4})
    module = SimpleNamespace(policy=policy, reward=reward)
    n = memory.sizes(policy)
    page = memory.per_gpu(n, 4 * 500 * 1000, 1)
    sent = n.learning * memory.FP32  # the page's GPU is one of several
    for rows in scale.batches:
        found = parts.runs.formula(SimpleNamespace(scale=scale), module, rows)
        more = memory.room(n, rows, 512, 150) - memory.room(n, 8, 512, 150)  # the page's batch
        assert found == max(page[f"rollout {rows}"], page["update"] + more) - sent


# -- waits


def test_waits_of_further_epochs_are_those_of_mini_batches(
    parts: SimpleNamespace, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 a rollout and 3 a mini-batch, of which an epoch of 4 responses has two."""

    def fit(*args: Any, callback: Any, ppo_epochs: int, **others: Any) -> None:
        waits = 20 + 3 * 2 * ppo_epochs
        callback.counts = [Counter(capturing=1000), Counter({"a.py:1": waits - 1, "b.py:2": 1})]
        callback.figures = [{"ppo/policy/ratio": 1.5, "ppo/policy/approxkl": 0.25}]

    monkeypatch.setattr(parts.runs, "fit", fit)
    gpu = SimpleNamespace(device=torch.device("cuda"), scale=bench.scale, free=lambda: None)
    row = parts.runs.update(gpu, bench.scale.t5, "float32", 4)
    assert (row["a_rollout"], row["a_mini_batch"]) == (20, 3)
    assert (row["ratio"], row["kl"]) == (0.5, 0.25)
    assert row["where"] == {"a.py:1": 25, "b.py:2": 1}


def test_torchs_warnings_are_counted_by_their_place(
    parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = parts.runs.Waits()
    module = SimpleNamespace(device=torch.device("cuda"))
    trainer = SimpleNamespace(callback_metrics={"loss": torch.tensor(2.0)})
    for times in (3, 1):
        waits.on_train_batch_start(trainer, module, None, 0)
        for _ in range(times):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        waits.on_train_batch_end(trainer, module, None, None, 0)
    assert [list(found.values()) for found in waits.counts] == [[3], [1]]
    (place,) = waits.counts[0]
    assert place.startswith(f"{Path(__file__).name}:")
    assert waits.figures == [{"loss": 2.0}] * 2
    assert modes == ["warn", "default"] * 2


# -- the peer


class Side:
    """Takes two seconds a part, or one if it is ours, and notes what it is asked for."""

    asked: ClassVar[list[tuple[str, Any]]] = []
    others: ClassVar[dict[str, Any]] = {}

    def __init__(self, name: str, python: Path, job: dict[str, Any]) -> None:
        self.name, self.job = name, job

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self.asked.append((self.name, "the end"))

    def round(self, prompts: Any = None) -> dict[str, Any]:
        self.asked.append((self.name, prompts))
        seconds, tokens = (1.0, {"prompts": ["a"]}) if self.name == "ours" else (2.0, {})
        parts = dict.fromkeys(("rollout", "score", "update", "round", "cpu"), seconds)
        equal = {"parameters": 5, "prompt_tokens": 9, "scored_tokens": 9, "moved": 1e-5}
        losses = {"policy_loss": 0.1, "value_loss": 0.1, "entropy": 6 * math.log(200)}
        work = {"total": 3 * seconds, "peak_mb": 100 * seconds, "response_tokens": 4 * 6}
        return {**parts, **equal, **losses, **work, **tokens, **self.others}


@pytest.mark.parametrize(("way", "rounds"), [("batch", 2), ("single", 1)])
def test_each_side_warms_up_before_the_round_that_counts(
    parts: SimpleNamespace, bench: Any, monkeypatch: pytest.MonkeyPatch, way: str, rounds: int
) -> None:
    """But not the peer one at a time, which takes long and warms up by its first prompts."""
    monkeypatch.setattr(parts.peer_rounds, "command", lambda: SimpleNamespace(Side=Side))
    monkeypatch.setattr(Side, "asked", [])
    row = parts.peer_rounds.compare(bench, way, "float32", 4)
    asked = [prompts for name, prompts in Side.asked if name == f"TRL {way}"]
    assert asked == [["a"]] * rounds + ["the end"]
    assert Side.asked.count(("ours", None)) == 2
    assert (row["ours"], row["theirs"]) == (3, 6)
    assert (row["rollout"], row["total"], row["memory"]) == (2, 2, 0.5)


def test_other_work_of_the_peer_is_a_failure(
    parts: SimpleNamespace, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.peer_rounds, "command", lambda: SimpleNamespace(Side=Side))
    monkeypatch.setattr(Side, "others", {"response_tokens": 23})
    with pytest.raises(RuntimeError, match="23 response tokens, 24 expected"):
        parts.peer_rounds.compare(bench, "batch", "float32", 4)


def test_the_peers_program_is_found(parts: SimpleNamespace) -> None:
    assert parts.peer_rounds.command().Side.__name__ == "Side"

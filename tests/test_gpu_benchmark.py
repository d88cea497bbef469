"""The benchmark of a GPU: its rows on a CPU, its arithmetic, and what it says if a row fails."""

import importlib
import importlib.util
import json
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from command import ROOT
from detox_lightning.models.policy import Policy

FOLDER = ROOT / "benchmarks"
PARTS = ("bench", "deadline", "report", "runs", "sections", "shapes", "steps", "targets")


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    """The benchmark's parts, and the command."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (ROOT / "docs", FOLDER / "peer", FOLDER):
            patch.syspath_prepend(folder)
        spec = importlib.util.spec_from_file_location("gpu_command", FOLDER / "gpu.py")
        assert spec is not None
        assert spec.loader is not None
        command = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(command)
        found = {name: importlib.import_module(f"gpu.{name}") for name in PARTS}
        yield SimpleNamespace(command=command, **found)


@pytest.fixture(scope="module")
def bench(parts: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        yield parts.bench.Bench(torch.device("cpu"), parts.shapes.DRY, folder, dry=True)


# -- rows


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


def test_without_merging_a_step_reads_the_adapters_too(parts: SimpleNamespace, bench: Any) -> None:
    policy = bench.policy(parts.shapes.DRY.llama, "bf16-mixed")
    with parts.bench.computing(torch.device("cpu"), "bf16-mixed"):
        prompts = policy.encode_prompts(*bench.prompts(policy, 2))
        read = parts.steps.bytes_read(policy, prompts)
    # the head is the embeddings' weight, and belongs to no layer
    assert read == sum(p.nbytes for p in policy.base.parameters())


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
        assert found == max(page[f"rollout {rows}"], page["update"]) - sent


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


# -- the end of a row


def test_a_row_that_takes_too_long_is_ended(
    parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if something swallows the first exception, as a finalizer does."""
    monkeypatch.setattr(parts.deadline, "AGAIN", 0.01)
    before, swallowed = signal.getsignal(signal.SIGALRM), []

    def work() -> None:
        while True:
            try:
                while True:
                    pass
            except parts.deadline.TimeUp:
                swallowed.append(1)
                if len(swallowed) == 2:
                    raise

    deadline = parts.deadline.Deadline(0.05)
    with pytest.raises(parts.deadline.TimeUp):
        deadline.call(work)
    with pytest.raises(parts.deadline.TimeUp):
        deadline.call(lambda: pytest.fail("there was no time left"))
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_error_about_the_missing_time_is_no_failure(
    parts: SimpleNamespace, tmp_path: Path
) -> None:
    """A reward's errors are worded anew, whatever they are."""

    def work() -> None:
        try:
            while True:
                pass
        except parts.deadline.TimeUp as error:
            raise ValueError("the reward failed with TimeUp") from error

    row = parts.command.outcome(work, parts.deadline.Deadline(0.05), tmp_path / "log")
    assert row == {"remark": "no time left"}


def uncapturable() -> dict[str, Any]:
    warnings.warn("the decode step can't be captured and stays slow: why", stacklevel=1)
    return {"x": 1}


def failing() -> dict[str, Any]:
    print("lost")
    raise ValueError("first\nsecond")


def stopping() -> dict[str, Any]:
    raise SystemExit


def test_each_row_fails_on_its_own(
    parts: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    works: list[Callable[[], Any]] = [lambda: {"x": 1}, failing, stopping, uncapturable]
    cases = [parts.sections.Case({"row": i}, work) for i, work in enumerate(works)]
    table = parts.report.Table("Title", {"row": "row", "x": "x"})
    sections = {"one": parts.sections.Section(table, lambda bench: iter(cases))}
    monkeypatch.setattr(parts.sections, "SECTIONS", sections)
    files = tmp_path / "all.json", tmp_path / "all.md"
    report = parts.report.Report(*files)
    bench = SimpleNamespace(folder=tmp_path)
    deadline = parts.deadline.Deadline(60)
    assert parts.command.measure(bench, ["one"], deadline, report) == 2
    deadline.end = time.monotonic()
    report.add("one", table, {"row": 4} | parts.command.outcome(failing, deadline, tmp_path / "l"))
    text = """\
## Title

| row | x |  |
| --- | --- | --- |
| 0 | 1 |  |
| 1 |  | failed: ValueError: first second |
| 2 |  | failed: SystemExit: without a reason |
| 3 | 1 | the decode step can't be captured and stays slow: why |
| 4 |  | no time left |
"""
    assert files[1].read_text(encoding="utf8") == text
    assert text in capsys.readouterr().out
    rows = json.loads(files[0].read_text(encoding="utf8"))["one"]
    assert [row.get("x") for row in rows] == [1, None, None, 1, None]


def test_cells(parts: SimpleNamespace) -> None:
    values = [None, True, False, 1234, 1234.6, 0.01234, -0.5, "a|b"]
    cells = ["–", "yes", "no", "1,234", "1,235", "0.0123", "-0.5", "a/b"]
    assert [*map(parts.report.cell, values)] == cells


# -- verdicts


@pytest.fixture
def measured(parts: SimpleNamespace) -> Any:
    """A report of which everything was measured but TRL one at a time."""
    report = parts.report.Report()
    t5 = {"model": "FLAN-T5-base", "rows": 8}
    report.rows = {
        "machine": [{"card": "A card"}],
        "step": [
            {**t5, "precision": "float32", "rows": 64, "times": 1.0},
            {**t5, "precision": "float32", "times": 4.0},
            {**t5, "precision": "bf16-mixed", "times": 4.1},
        ],
        "rollout": [{**t5, "precision": "float32", "total": 0.5}],
        "peer": [
            {"way": "batch", "rows": 64, "total": 10.0, "memory": 0.66},
            {"way": "single", "rows": 64, "remark": "no time left"},
        ],
    }
    return report


def test_targets_are_met_missed_or_not_measured(parts: SimpleNamespace, measured: Any) -> None:
    bench = SimpleNamespace(scale=parts.shapes.FULL, dry=False)
    rows = [target.row for target in parts.targets.targets(measured, bench)]
    assert [row["found"] for row in rows] == [4.0, 4.1, 0.5, 10.0, None, 0.66]
    verdicts = ["met", "missed", "missed", "met", "not measured", "missed"]
    assert [row["remark"] for row in rows] == verdicts
    assert parts.targets.answer(measured, bench) == (
        "On A card, a rollout of 8 responses of 100 tokens by FLAN-T5-base takes 0.5 s with "
        "scoring and update: 7,200 rollouts an hour."
    )


def test_a_dry_run_measures_nothing(parts: SimpleNamespace, measured: Any) -> None:
    bench = SimpleNamespace(scale=parts.shapes.FULL, dry=True)
    rows = [target.row for target in parts.targets.targets(measured, bench)]
    assert {row["remark"] for row in rows} == {"not measured"}
    assert "mean nothing" in parts.targets.answer(measured, bench)


# -- the command


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the command changes in its process is as before afterwards."""
    for name in ("TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Lightning sets it
    monkeypatch.setattr(sys, "path", [*sys.path])
    threads, kernels = torch.get_num_threads(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.enable_cudnn_sdp(kernels)


def test_it_names_all_sections(parts: SimpleNamespace) -> None:
    assert tuple(parts.sections.SECTIONS) == parts.command.NAMES
    options = parts.command.read_options([])
    assert options.sections == [*parts.command.NAMES[:-1]]
    assert (options.seconds, options.device) == (470, "cuda")
    options = parts.command.read_options([f"--peer_python={sys.executable}", "--dry-run"])
    assert options.sections == [*parts.command.NAMES]
    assert options.dry_run


@pytest.mark.parametrize("words", [[], ["--peer_python=/nowhere"]])
def test_the_peer_needs_its_environment(
    parts: SimpleNamespace, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parts.command.read_options(["--sections", "peer", *words])
    assert "--sections peer needs --peer_python" in capsys.readouterr().err


@pytest.mark.usefixtures("unchanged")
def test_without_a_gpu_it_says_so(parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees no GPU here; --device cpu --dry_run"):
        parts.command.main([])


@pytest.mark.usefixtures("unchanged")
def test_no_time_for_anything(parts: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """All rows are named."""
    parts.command.main(["--device=cpu", "--dry_run", "--seconds=0"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("| no time left |") for line in lines) == 1 + 8 + 8 + 4 + 2 + 2
    assert sum(line.endswith("| not measured |") for line in lines) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("unchanged")
def test_a_dry_run_of_everything(
    parts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    parts.command.main(["--device", "cpu", "--dry_run", "--json", str(file)])
    rows = json.loads(file.read_text(encoding="utf8"))
    counts = {name: len(found) for name, found in rows.items()}
    assert counts == {
        **{"machine": 1, "step": 8, "rollout": 8, "equality": 4},
        **{"update": 2, "resume": 2, "targets": 6},
    }
    named = [row for name, found in rows.items() if name != "targets" for row in found]
    assert {row["remark"] for row in named} == {""}
    assert all(row["again"] and row["base"] for row in rows["equality"])
    assert all(row["equal"] and row["moved"] > 1e-3 for row in rows["resume"])
    assert all(abs(row["ratio"]) < 1e-6 for row in rows["update"])
    assert "figures mean nothing" in capsys.readouterr().out

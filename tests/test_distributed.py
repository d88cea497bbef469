"""Two processes learn as one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import detox_lightning
import processes
from command import tiny_recipe
from conftest import FEELINGS, NAMES, save_classifier, tiny_t5_model, word_tokenizer
from launching import codes, elastic, free_port, slurm, started, two_nodes
from numerics import FLOAT32, float32

SECONDS = 400  # no process may take longer, hanging ones included


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    tiny_t5_model().save_pretrained(folder / "t5")
    word_tokenizer().save_pretrained(folder / "t5")
    save_classifier(folder / "classifier", ["nothate", "hate"])
    tiny_recipe(folder, str(folder / "t5"), str(folder / "classifier"))
    templates = "".join(f"{name} is a {{group}} person .\n" for name in NAMES + FEELINGS)
    (folder / "templates.txt").write_text(templates)
    return folder


@pytest.fixture(scope="module")
def ended(folder: Path) -> subprocess.CompletedProcess[str]:
    """Two processes that have done all they had to do, and then failed."""
    return ran(folder, str(Path(processes.__file__)), str(folder))


@pytest.fixture(scope="module")
def ranks(ended: subprocess.CompletedProcess[str], folder: Path) -> list[dict[str, Any]]:
    """What came of the scenarios in each of the two processes."""
    files = [folder / f"rank{rank}.pt" for rank in (0, 1)]
    assert all(file.exists() for file in files), ended.stderr
    return [torch.load(file, weights_only=False) for file in files]


def environment(folder: Path) -> dict[str, str]:
    source = Path(detox_lightning.__file__).parents[1]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), str(Path(__file__).parent)]),
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What Python did with these words."""
    command, env = [sys.executable, *words], environment(folder)
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=SECONDS)


def outcome(run: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What a run left: its last checkpoint, and its curves but for those of time."""
    events = EventAccumulator(str(run)).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    curves = {name: [point.value for point in events.Scalars(name)] for name in names}
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {**saved["state_dict"], "kl_coef": saved["detox_lightning"]["kl_coef"]}, curves


PLACES = {"workers": elastic, "nodes": two_nodes, "slurm": slurm}
ONE_A_NODE = ("--trainer.devices=1", "--trainer.num_nodes=2")
LAUNCHERS = [*PLACES, "torchrun"]


@pytest.mark.slow  # the others are about processes that Lightning starts
@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_whoever_starts_the_processes_the_run_is_the_same(folder: Path, launcher: str) -> None:
    flags = ONE_A_NODE if launcher == "nodes" else ("--trainer.devices=2",)
    if launcher == "torchrun":
        program = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port"]
        words = [str(Path(processes.__file__)), str(folder), launcher, *flags]
        ended = ran(folder, *program, free_port(), *words)
        assert ended.returncode == 0, ended.stderr
    else:
        places = PLACES[launcher]()
        with started(folder, places, processes.launched, folder, launcher, *flags) as begun:
            assert codes(begun) == [0, 0], (folder / "output1").read_text()
    (run,) = (folder / launcher / "tiny").iterdir()
    assert len(list(run.glob("events*"))) == 1
    (learnt, curves) = outcome(folder / "runs" / "tiny" / "version_0")
    (ours, our_curves) = outcome(run)
    same(ours, learnt, tolerance=0)
    assert curves["val/toxicity"]
    assert str(our_curves) == str(curves)  # to the last digit, NaN included


def test_the_first_process_prepares_the_data_for_all(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["fitted"]["prepared"] for rank in ranks)
    assert first.count("tokenize") == 2  # training and validation rows
    assert first.count("finalize") == 8  # read, two filters and encoded rows of both
    assert second == []


def same(one: Any, other: Any, tolerance: float) -> None:
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def test_a_recipe_comes_to_its_end(ranks: list[dict[str, Any]], folder: Path) -> None:
    first, second = (rank["fitted"] for rank in ranks)
    assert first["rollouts"] == second["rollouts"] == 2
    run = folder / "runs" / "tiny" / "version_0"
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    assert (run / "checkpoints" / "last.ckpt").exists()


def test_processes_differ_in_what_they_sample_alone(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["GAE"] for rank in ranks)
    assert first["sampled"] != second["sampled"]  # of the same prompts, by the same weights
    first, second = (rank["fitted"] for rank in ranks)
    assert set(first["samples"].prompts).isdisjoint(second["samples"].prompts)
    same(first["weights"], second["weights"], tolerance=0)
    assert any(weight.any() for name, weight in first["weights"].items() if "lora_B" in name)
    assert first["kl_coef"] == second["kl_coef"] != 0.2
    shared = {name for name in first["metrics"] if not name.startswith("time/")}
    assert {name: first["metrics"][name] for name in shared} == pytest.approx(
        {name: second["metrics"][name] for name in shared}, nan_ok=True
    )
    assert "val/toxicity" in shared


@pytest.fixture(scope="module")
def others(folder: Path) -> list[dict[str, Any]]:
    """What came of what is told beyond the quick ones, in each of two processes."""
    with started(folder, elastic(), processes.told_the_others, folder) as begun:
        assert codes(begun) == [0, 0], (folder / "output1").read_text()
    return [torch.load(folder / f"others{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize(
    "telling",
    [
        name if name in processes.QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in processes.TELLINGS
    ],
)
def test_two_processes_take_the_steps_of_one(
    folder: Path, telling: str, request: pytest.FixtureRequest
) -> None:
    ranks = request.getfixturevalue("ranks" if telling in processes.QUICK else "others")
    alone = processes.told(folder, 1, telling)
    first, second = (rank[telling] for rank in ranks)
    for came in (alone, first, second):
        del came["metrics"]["objective/same_response"]  # each process compares its own responses
    assert len(alone["gradients"]) == 2 * 2 * 2  # rollouts × epochs × mini-batches
    assert alone["kl_coef"] != 0.2
    together: dict[str, Any] = {
        name: [
            whole(*parts, alone[name][rollout].shape[1])
            for rollout, parts in enumerate(zip(first[name], second[name], strict=True))
        ]
        for name in ("advantages", "returns")
    }
    assert first["advantages"][0].shape[1] < second["advantages"][0].shape[1]
    for rank in (first, second):
        shared = ("gradients", "weights", "kl_coef", "multiplier", "metrics")
        together |= {name: rank[name] for name in shared}
        apart = {name: furthest(together[name], alone[name]) for name in together}
        print(telling, {name: f"{distance:.1e}" for name, distance in apart.items()})
        assert apart.pop("metrics") <= float32(8)
        assert max(apart.values()) <= FLOAT32
    assert any(gradient.any() for gradient in alone["gradients"][0].values())
    assert first["multiplier"] == second["multiplier"]
    if telling == "a limit":
        assert 0 < alone["metrics"]["objective/multiplier"] < alone["multiplier"]


def whole(one: Tensor, other: Tensor, width: int) -> Tensor:
    """Two processes' rows, padded as one process pads them."""
    return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (one, other)])


def furthest(ours: Any, other: Any) -> float:
    """The largest difference of two numbers, wherever in them it is."""
    if isinstance(other, dict):
        assert ours.keys() == other.keys()
        return max(furthest(ours[name], other[name]) for name in other)
    if isinstance(other, list):
        return max(furthest(*pair) for pair in zip(ours, other, strict=True))
    return float((torch.as_tensor(ours) - torch.as_tensor(other)).abs().max())


def test_two_processes_find_what_one_finds(ranks: list[dict[str, Any]], folder: Path) -> None:
    """Seven prompts: one process has four of them, the other three."""
    alone = processes.tested(folder, 1)
    for rank in ranks:
        assert rank["tested"] == pytest.approx(alone, abs=float32(6))
    assert alone["test/after/kl"] != 0
    rows, ours = (
        [json.loads(line) for line in (folder / name / "comparison.jsonl").open(encoding="utf8")]
        for name in ("report1", "report2")
    )
    assert len(rows) == len(ours) == 7 * 4

    def by_place(row: dict[str, Any]) -> tuple[str, ...]:
        return row["prompt"], row["decoding"]

    for one, other in zip(sorted(rows, key=by_place), sorted(ours, key=by_place), strict=True):
        assert one == pytest.approx(other, abs=float32(6))
    one, other = (
        json.loads((folder / name / "summary.json").read_text()) for name in ("report1", "report2")
    )
    toxicity, same = (x["figures"]["sampled"]["toxicity"]["after"] for x in (one, other))
    assert toxicity == pytest.approx(same, abs=float32(6))  # its interval, too
    answers, same = (x["identity"]["answers"]["figures"]["toxicity"] for x in (one, other))
    assert answers["lazy"]["after"] == pytest.approx(same["lazy"]["after"], abs=float32(6))
    audits = [x["identity"]["audit"]["judges"]["toxicity"]["false_alarms"] for x in (one, other)]
    assert audits[0] == audits[1]


@pytest.mark.usefixtures("ranks")
def test_no_process_waits_for_one_that_failed(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode in (
        1,
        -signal.SIGKILL,
    )  # Lightning kills the first process, if it waits
    said = "error: rank 1: rollout 0: the reward 'nothate' failed with ZeroDivisionError: ours ("
    assert said in ended.stderr
    assert "faults/rollout-0-rank-1.safetensors" in ended.stderr


def test_what_is_not_finite_in_one_process_is_left_out_in_all(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    for rank in ranks:
        assert rank["faulty"] == {"faults": 1, "rollouts": 2, "logged": 1.0}
    faults = folder / "runs" / "faulty" / "version_0" / "faults"
    assert {file.name for file in faults.iterdir()} == {
        "rollout-0-rank-1.json",
        "rollout-0-rank-1.safetensors",
    }
    what = json.loads((faults / "rollout-0-rank-1.json").read_text())["what"]
    assert what.startswith("the reward 'nothate' gave nan for the response ")
